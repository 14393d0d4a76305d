"""HardCoRe-NAS (arXiv:2102.11646): architecture search with the latency as a hard constraint at every step."""

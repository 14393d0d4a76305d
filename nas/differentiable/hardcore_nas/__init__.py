"""HardCoRe-NAS (arXiv:2102.11646): a latency that holds at every step of the search, not only on average at its end."""

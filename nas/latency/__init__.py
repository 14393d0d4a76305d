"""Measuring latency on the device at hand: pieces of networks, whole networks, and how far the one tells of the other."""

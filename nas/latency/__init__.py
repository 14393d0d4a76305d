"""Profiling: a per-block latency lookup table of this device, validated on whole networks."""

"""Searches that learn an architecture by gradients under a latency: TF-NAS and what such methods share."""

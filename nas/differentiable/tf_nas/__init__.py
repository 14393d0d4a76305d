"""TF-NAS (arXiv:2008.05314): operations, depths and widths of a network, searched by gradients under a latency."""

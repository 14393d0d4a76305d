"""Which architectures to train: uniform, under a cost target, and attentive to a Pareto front."""

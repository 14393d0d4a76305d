"""Costs of architectures: tables that are summed along the chain of stages, and the list of costs."""

"""Each module prints figures that the README quotes: `python -m benchmarks.<name>`."""

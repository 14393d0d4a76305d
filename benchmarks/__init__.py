"""Each module prints figures that docs/benchmarks.md quotes: `python -m benchmarks.<name>`."""

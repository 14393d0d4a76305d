"""Pareto NAS: a family of image classifiers, each the most accurate for its cost, from one supernet training."""

import os

# Nothing here reports home. Set before any of the three is imported.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# Idle OpenMP threads that spin stall a training step when another process shares the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

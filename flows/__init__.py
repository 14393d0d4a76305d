"""Prefect flows: when and where stages run. DVC decides which stages run."""

import os

# Nothing here reports home. Set before any of the three is imported.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

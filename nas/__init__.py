"""Pareto NAS: a family of image classifiers, each the most accurate for its cost, from one supernet training.

- `nas.load("outputs/export/glyphs-a0")`: a network that stage export wrote, ready to classify
- `nas.published("AttentiveNAS-A0")`: a network of the papers, its weights random
"""

import importlib
import os

# Nothing here reports home. Set before any of the three is imported.
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# Idle OpenMP threads that spin stall a training step when another process shares the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_LAZY = {"load": ("nas.export.bundle", "load"), "published": ("nas.models.published", "network")}  # torch is loaded by their first use only


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]

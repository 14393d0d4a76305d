"""Timing and printing for the benchmarks."""

import os
import platform
from collections.abc import Callable
from time import perf_counter

import numpy as np


def best_of(work: Callable[[], object], times: int) -> float:
    """The shortest of several runs, in seconds: the one least disturbed by others."""
    found = []
    for _ in range(times):
        start = perf_counter()
        work()
        found.append(perf_counter() - start)
    return min(found)


def show(title: str, figures: dict[str, str]) -> None:
    """A title and one aligned line a figure."""
    print(title)
    for name, figure in figures.items():
        print(f"  {name:<44} {figure}")


def machine() -> None:
    """What the figures were taken on."""
    print(f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")

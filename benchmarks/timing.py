"""Timing and printing for the benchmarks."""

import os
import platform
from collections.abc import Callable
from time import perf_counter

import numpy as np


def best_of(work: Callable[[], object], times: int) -> float:
    """The shortest of several runs, in seconds: the least disturbed one."""
    seconds = []
    for _ in range(times):
        start = perf_counter()
        work()
        seconds.append(perf_counter() - start)
    return min(seconds)


def show(title: str, results: dict[str, str]) -> None:
    """Print a title and one aligned line per result."""
    print(title)
    for name, result in results.items():
        print(f"  {name:<44} {result}")


def machine() -> None:
    """Print the machine and versions."""
    print(f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}")

"""Run a stage with clocks that show the same times whenever it is run: `python run_stage.py [--jumps] STAGE`, in a project's root.

What a stage measures with the clock (latencies) is in its outputs, so two runs would differ. Here time passes only when
something runs that is timed, by an amount that depends on its size: the work is done, its duration is made up. Amounts are
multiples of 2**-30 s, so that sums of them are exact, in whatever order.

With --jumps `time.time`, the clock that can be set, goes back and forward by hours, while `time.monotonic` goes on.
"""

import importlib
import random
import sys
import time
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import torch

from nas.latency import profiler
from nas.latency.backends import config
from nas.latency.backends.torch_backend import TorchBackend
from nas.latency.timing import HostClock
from nas.stages import export, runner

TICK_S = 2.0**-30


class Passing:
    """Time that has passed, seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class MadeUp(TorchBackend):
    """Torch that takes a tick for each number that is multiplied with a weight, nearly."""

    def __init__(self, *args, passing: Passing) -> None:
        super().__init__(*args)
        self._passing, self.clock = passing, HostClock(passing)

    def prepare(self, module, example):
        run = super().prepare(module, example)
        seconds = TICK_S * (1000 + example.numel() * 3 + sum(p.numel() for p in module.parameters()) * example.shape[-1])

        def call(x):
            self._passing.now += seconds
            return run(x)

        return call


def made_up_clocks() -> None:
    """In the stages that measure time: latency and export."""
    passing = Passing()
    config.Torch.start = lambda p: MadeUp(torch.device(p.device), p.threads, p.channels_last, passing=passing)
    profiler.measure = partial(profiler.measure, now=passing)
    profiler.datetime = SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, tzinfo=UTC))

    def counted() -> float:
        passing.now += 2.0**-10
        return passing.now

    export.time = SimpleNamespace(perf_counter=counted)


def jumping_clock() -> None:
    """Each time it is read, the clock may have been set by up to a day."""
    real, rng = time.time, random.Random(0)
    time.time = lambda: real() + (rng.uniform(-86400, 86400) if rng.random() < 0.2 else 0)


if __name__ == "__main__":
    made_up_clocks()
    if "--jumps" in sys.argv:
        jumping_clock()
    runner.execute(importlib.import_module(f"nas.stages.{sys.argv[-1]}").main)

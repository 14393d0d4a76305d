"""Run a stage with deterministic clocks: `python run_stage.py [--jumps] STAGE`, in a project's root.

Measured latencies are in a stage's outputs, so two runs would differ. Here the clock advances only while timed work runs,
by an amount that depends on its size. Amounts are multiples of 2**-30 s, so that their sums are exact in any order.

With --jumps `time.time` jumps back and forward by hours, while `time.monotonic` does not.
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


class FakeTime:
    """Elapsed time, seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeTorch(TorchBackend):
    """The torch backend with made-up durations of about one tick per multiplication."""

    def __init__(self, *args, elapsed: FakeTime) -> None:
        super().__init__(*args)
        self._elapsed, self.clock = elapsed, HostClock(elapsed)

    def prepare(self, module, example):
        run = super().prepare(module, example)
        seconds = TICK_S * (1000 + example.numel() * 3 + sum(p.numel() for p in module.parameters()) * example.shape[-1])

        def call(x):
            self._elapsed.now += seconds
            return run(x)

        return call


def install_fake_clocks() -> None:
    """Replace the clocks of the stages that measure time: latency and export."""
    elapsed = FakeTime()
    config.Torch.start = lambda p: FakeTorch(torch.device(p.device), p.threads, p.channels_last, elapsed=elapsed)
    profiler.measure = partial(profiler.measure, now=elapsed)
    profiler.datetime = SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, tzinfo=UTC))

    def tick() -> float:
        elapsed.now += 2.0**-10
        return elapsed.now

    export.time = SimpleNamespace(perf_counter=tick)


def install_jumping_clock() -> None:
    """At each read the clock may jump by up to a day."""
    real, rng = time.time, random.Random(0)
    time.time = lambda: real() + (rng.uniform(-86400, 86400) if rng.random() < 0.2 else 0)


if __name__ == "__main__":
    install_fake_clocks()
    if "--jumps" in sys.argv:
        install_jumping_clock()
    runner.execute(importlib.import_module(f"nas.stages.{sys.argv[-1]}").main)

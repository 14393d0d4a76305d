"""Latency of an inverted residual block by its hidden channels, the staircase of a vectorised CPU: python -m benchmarks.widths."""

from time import perf_counter

import numpy as np
import torch

from benchmarks.timing import machine, show
from nas.latency.backends.config import Torch
from nas.models.blocks import InvertedResidual, init_weights
from nas.models.fuse import fold
from nas.spaces.rows import Row, Squeeze

HIDDEN = (32, 33, 40, 48, 49, 56, 64, 65, 72, 80, 81, 96)
CHANNELS, SIDE, BATCH = 16, 12, 32  # in and out, pixels, images
ROUNDS = 200


@torch.inference_mode()
def medians_ms() -> dict[int, float]:
    """By the number of hidden channels; interleaved, each after a warm-up call."""
    images = torch.randn(BATCH, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    blocks = {}
    for hidden in HIDDEN:
        row = Row(CHANNELS, hidden, 0, CHANNELS, 3, 1, "ReLU")
        blocks[hidden] = fold(InvertedResidual(row, Squeeze(None, "Sigmoid")).apply(init_weights).eval()).to(
            memory_format=torch.channels_last
        )
    seconds: dict[int, list[float]] = {hidden: [] for hidden in HIDDEN}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for hidden in rng.permutation(HIDDEN).tolist():
            blocks[hidden](images)
            start = perf_counter()
            blocks[hidden](images)
            seconds[hidden].append(perf_counter() - start)
    return {hidden: 1000 * float(np.median(times)) for hidden, times in seconds.items()}


def main() -> None:
    torch.manual_seed(0)
    with Torch(runtime="torch", device="cpu", threads=1, channels_last=True).start().running():
        ms = medians_ms()
    show(f"block of {CHANNELS} channels at {SIDE} px, batch {BATCH}, 1 thread", {f"{h} hidden channels": f"{ms[h]:.3f} ms" for h in HIDDEN})
    stairs = [f"{h} to {h + 1}: {100 * (ms[h + 1] / ms[h] - 1):+.0f} %" for h in HIDDEN if h + 1 in ms]
    show("one channel more than a whole number of groups", {"stairs": ", ".join(stairs)})
    machine()


if __name__ == "__main__":
    main()

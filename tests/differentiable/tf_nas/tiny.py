"""A small TF-NAS space, and latencies that are made up for one."""

import numpy as np

from nas.cost.latency_tf_nas import Curve, LatencyTable, operators
from nas.spaces.tf_nas import Arch, Head, Operation, Space, Stage, Stem

TINY = Space(
    name="tiny",
    resolution=8,
    stem=Stem(width=4, stride=1, act="ReLU", block_width=4, block_se=0),
    stages=(Stage(width=4, depth=2, stride=1, act="ReLU"), Stage(width=6, depth=3, stride=2, act="Swish")),
    head=Head(width=8, act="Swish"),
    operations=(
        Operation(kernel=3, expansion=(2, 4), se=0),
        Operation(kernel=5, expansion=(4, 8), se=0),
        Operation(kernel=3, expansion=(4, 8), se=2),
    ),
)


def made_up(of: Space, seed: int = 0, points: int = 3) -> LatencyTable:
    """A table with random curves that mostly rise."""
    rng = np.random.default_rng(seed)
    curves = {}
    for key, (low, high) in operators(of).items():
        hidden = tuple(sorted(set(np.linspace(low, high, points).round().astype(int).tolist())))
        ms = rng.uniform(0.5, 1.0, len(hidden)) * np.array(hidden) / 10
        curves[key] = Curve(hidden=hidden, latency_ms=tuple(ms.tolist()), spread=(0.01,) * len(hidden))
    return LatencyTable(of, 5, curves, 1.5, {"device": "made up", "batch": 2})


def random_choice(of: Space, rng: np.random.Generator) -> tuple[Arch, np.ndarray]:
    """A network, and hidden channels (layers, operations) that it has been drawn with."""
    low, high = of.bounds()
    widths = rng.integers(low, high + 1)
    ops = rng.integers(len(of.operations), size=len(of.layers)).tolist()
    depths = tuple(int(rng.integers(1, stage.depth + 1)) for stage in of.stages)
    return Arch(tuple(ops), depths, tuple(int(widths[i, o]) for i, o in enumerate(ops))), widths

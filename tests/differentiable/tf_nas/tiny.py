"""A small TF-NAS space with random latency tables and architectures."""

import numpy as np

from nas.cost.latency_tf_nas import Curve, TfNasLatencyTable, operators
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


def random_table(space: Space, seed: int = 0, points: int = 3) -> TfNasLatencyTable:
    """A table with random curves, mostly rising."""
    rng = np.random.default_rng(seed)
    curves = {}
    for key, (low, high) in operators(space).items():
        hidden = tuple(sorted(set(np.linspace(low, high, points).round().astype(int).tolist())))
        ms = rng.uniform(0.5, 1.0, len(hidden)) * np.array(hidden) / 10
        curves[key] = Curve(hidden=hidden, latency_ms=tuple(ms.tolist()), spread=(0.01,) * len(hidden))
    return TfNasLatencyTable(space, 5, curves, 1.5, {"device": "made up", "batch": 2})


def random_arch(space: Space, rng: np.random.Generator) -> tuple[Arch, np.ndarray]:
    """A random architecture, and random hidden channels (layers, operations) that it takes its widths from."""
    low, high = space.bounds()
    widths = rng.integers(low, high + 1)
    ops = rng.integers(len(space.operations), size=len(space.layers)).tolist()
    depths = tuple(int(rng.integers(1, stage.depth + 1)) for stage in space.stages)
    return Arch(tuple(ops), depths, tuple(int(widths[i, o]) for i, o in enumerate(ops))), widths


def rising_table(seed: int, space: Space = TINY) -> TfNasLatencyTable:
    """A table in which wider is always slower."""
    rng, curves = np.random.default_rng(seed), {}
    for key, (low, high) in operators(space).items():
        hidden = tuple(sorted({low, (low + high) // 2, high}))
        curves[key] = Curve(hidden=hidden, latency_ms=tuple(rng.uniform(0.1, 1.0, 3).cumsum().tolist()), spread=(0.0,) * 3)
    return TfNasLatencyTable(space, 5, curves, 1.0)


def with_widths(arch: Arch, end: int, space: Space = TINY) -> Arch:
    """The same operations with their least (0) or most (1) hidden channels."""
    bound = space.bounds()[end]
    return Arch(arch.operations, arch.depths, tuple(int(bound[i, o]) for i, o in enumerate(arch.operations)))

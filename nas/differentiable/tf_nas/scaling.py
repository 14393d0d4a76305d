"""Elasticity scaling: hidden widths shrink or expand until the architecture has the target latency.

TF-NAS (arXiv:2008.05314), section 3.4 and Algorithm 1. An architecture above the target shrinks in all stages until it is
within it; otherwise all stages expand as far as the target allows. Then all stages but the first expand, all but the first
two, down to the last. In one step a layer's width changes in proportion to it, the narrowest layer's by one channel.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.spaces.tf_nas import Arch

Bound = Literal["least", "most"]


def scale(table: TfNasLatencyTable, arch: Arch, target_ms: float) -> Arch:
    """The same operations and depths, as wide as the target latency allows.

    Where the space's bounds do not allow the target, all widths are at their least or at their most: see `bound`. Widths of
    layers beyond the depth do not change.
    """
    stages = range(len(table.space.stages))
    if table.latency_ms(arch) > target_ms:
        while table.latency_ms(arch) > target_ms and (narrower := step(table, arch, stages, -1)) != arch:
            arch = narrower
    else:
        arch = _expand(table, arch, stages, target_ms)
    for first in stages[1:]:
        arch = _expand(table, arch, stages[first:], target_ms)
    return arch


def bound(table: TfNasLatencyTable, arch: Arch, target_ms: float) -> Bound | None:
    """Why a scaled architecture misses its target: "least" widths and still above it, or "most" widths; else None."""
    if table.latency_ms(arch) > target_ms:
        return "least"
    return "most" if step(table, arch, range(len(table.space.stages)), +1) == arch else None


def step(table: TfNasLatencyTable, arch: Arch, stages: Sequence[int], sign: int) -> Arch:
    """One step: the layers of these stages wider (+1) or narrower (-1), within their bounds."""
    space = table.space
    low, high = space.bounds()
    active = [i for i in space.active_layers(arch.depths) if space.layers[i].stage in stages]
    narrowest, widths = min(arch.widths[i] for i in active), list(arch.widths)
    for i in active:
        width = widths[i] + sign * round(widths[i] / narrowest)
        widths[i] = int(min(max(width, low[i, arch.operations[i]]), high[i, arch.operations[i]]))
    return replace(arch, widths=tuple(widths))


def _expand(table: TfNasLatencyTable, arch: Arch, stages: Sequence[int], target_ms: float) -> Arch:
    while (wider := step(table, arch, stages, +1)) != arch and table.latency_ms(wider) <= target_ms:
        arch = wider
    return arch

"""Elasticity scaling: hidden widths of the current network shrunk or expanded until it takes just the target latency.

TF-NAS (arXiv:2008.05314), section 3.4 and Algorithm 1. If it is too slow, all stages shrink until it is fast enough; else all
expand as long as it stays so. Then all but the first stage expand, all but the first two, and so on to the last alone.
In one round a layer's width changes in proportion to it, the narrowest layer's by one channel.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from nas.cost.latency_tf_nas import LatencyTable
from nas.spaces.tf_nas import Arch

Bound = Literal["least", "most"]


def scale(table: LatencyTable, choice: Arch, target_ms: float) -> Arch:
    """The same operations and depths with widths by which the network takes at most the target, and one step more would not.

    Where the bounds do not allow it, all widths are at their least, or at their most: `bound` tells. Widths of layers that
    the network does not have stay as they are.
    """
    stages = range(len(table.space.stages))
    if table.latency_ms(choice) > target_ms:
        while table.latency_ms(choice) > target_ms and (narrower := step(table, choice, stages, -1)) != choice:
            choice = narrower
    else:
        choice = _expand(table, choice, stages, target_ms)
    for first in stages[1:]:
        choice = _expand(table, choice, stages[first:], target_ms)
    return choice


def bound(table: LatencyTable, choice: Arch, target_ms: float) -> Bound | None:
    """Why a scaled network is off its target: all widths are at their least and it is too slow, or at their most; else None."""
    if table.latency_ms(choice) > target_ms:
        return "least"
    return "most" if step(table, choice, range(len(table.space.stages)), +1) == choice else None


def step(table: LatencyTable, choice: Arch, stages: Sequence[int], sign: int) -> Arch:
    """One round: the layers of these stages wider (+1) or narrower (-1), within their bounds."""
    space = table.space
    low, high = space.bounds()
    active = [i for i in space.active_layers(choice.depths) if space.layers[i].stage in stages]
    narrowest, widths = min(choice.widths[i] for i in active), list(choice.widths)
    for i in active:
        wanted = widths[i] + sign * round(widths[i] / narrowest)
        widths[i] = int(min(max(wanted, low[i, choice.operations[i]]), high[i, choice.operations[i]]))
    return replace(choice, widths=tuple(widths))


def _expand(table: LatencyTable, choice: Arch, stages: Sequence[int], target_ms: float) -> Arch:
    while (wider := step(table, choice, stages, +1)) != choice and table.latency_ms(wider) <= target_ms:
        choice = wider
    return choice

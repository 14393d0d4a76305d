"""Profiling a TF-NAS space: every operation at several numbers of hidden channels.

Whole networks have numbers of hidden channels that were not measured, so their validation includes errors of interpolation.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from nas.cost.latency import Entry, RowBlock
from nas.cost.latency_tf_nas import Curve, Operator, TfNasLatencyTable, operators
from nas.latency.rows import Block, FixedPart, ProfiledRows, RowLatencyConfig
from nas.spaces.rows import Plan
from nas.spaces.tf_nas import Arch, Space


class TfNasLatencyConfig(RowLatencyConfig):
    """Section `latency`."""

    step: Annotated[int, Field(ge=2)]  # hidden channels; an operation is measured at the multiples and one more


class ProfiledTfNas(ProfiledRows[Arch]):
    """A TF-NAS space, profiled with a step of hidden channels."""

    def __init__(self, space: Space, step: int) -> None:
        self.space, self.step, self.name, self.example = space, step, space.name, space.middle()

    def chains(self) -> list[tuple[Block, ...]]:
        """Networks of full depth that hold every operator at every measured number of hidden channels."""
        space, (low, high) = self.space, self.space.bounds()
        variants = []
        for i, layer in enumerate(space.layers):
            blocks = dict.fromkeys(
                RowBlock(layer.side, space.row(i, o, h))
                for o in range(len(space.operations))
                for h in measured_widths(int(low[i, o]), int(high[i, o]), self.step)
            )
            variants.append(list(blocks))
        ends, most = (FixedPart("first"), FixedPart("last")), max(map(len, variants))
        # equal layers in a row take different variants in the same chain
        return [(ends[0], *(v[(n + i) % len(v)] for i, v in enumerate(variants)), ends[1]) for n in range(most)]

    def plan(self, arch: Arch) -> Plan:
        return self.space.plan(arch)

    def random(self, rng: np.random.Generator) -> Arch:
        """A network of random operations, of a random size: with independent widths, all would be of middle size."""
        space, (low, high) = self.space, self.space.bounds()
        size, ops = rng.random(), rng.integers(len(space.operations), size=len(space.layers))
        depths = tuple(int(rng.integers(1, 2 + round(size * (stage.depth - 1)))) for stage in space.stages)
        layers = np.arange(len(ops))
        least, most = low[layers, ops], high[layers, ops]
        widths = least + np.rint((most - least) * np.clip(size + rng.uniform(-0.3, 0.3, len(ops)), 0, 1)).astype(int)
        return Arch(tuple(ops.tolist()), depths, tuple(widths.tolist()))

    def table_of(
        self, classes: int, blocks: Mapping[RowBlock, Entry], fixed_latency_ms: float, setting: Mapping[str, Any]
    ) -> TfNasLatencyTable:
        points: dict[Operator, list[tuple[int, Entry]]] = {}
        for block, entry in blocks.items():
            points.setdefault(operator_of(block), []).append((block.row.hidden, entry))
        curves = {}
        for operator in operators(self.space):
            hidden, entries = zip(*sorted(points[operator], key=lambda point: point[0]))
            spreads = tuple(entry.spread for entry in entries)
            curves[operator] = Curve(hidden=hidden, latency_ms=tuple(entry.latency_ms for entry in entries), spread=spreads)
        return TfNasLatencyTable(self.space, classes, curves, fixed_latency_ms, setting)


def operator_of(block: RowBlock) -> Operator:
    """The block without its hidden channels."""
    r = block.row
    return Operator(block.side, r.c_in, r.se, r.c_out, r.kernel, r.stride, r.act)


def measured_widths(low: int, high: int, step: int) -> list[int]:
    """Both ends, and between them the multiples of the step and one more than each.

    A processor takes channels in groups: one channel beyond a whole number of groups costs as much as the next group, so
    latency is a staircase (a group of 16 on a CPU with AVX-512, steps of 15 to 18 % at 32 to 64 channels), and measurements
    at multiples alone are too fast for all other widths.
    """
    edges = {w for m in range(low - low % step, high + 1, step) for w in (m, m + 1) if low <= w <= high}
    return sorted({low, high, *edges})

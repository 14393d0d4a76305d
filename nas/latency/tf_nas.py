"""What a latency survey measures of a TF-NAS space: every operation at several widths.

Whole networks have widths that were not measured, so the errors of interpolation are judged with the rest.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from nas.cost.latency import Entry
from nas.cost.latency_file import Block
from nas.cost.latency_tf_nas import Curve, LatencyTable, Operator, operators
from nas.latency import row_profiler
from nas.latency.row_profiler import Given, Piece
from nas.spaces.rows import Plan
from nas.spaces.tf_nas import Arch, Space


class Latency(row_profiler.Latency):
    """Section `latency`."""

    step: Annotated[int, Field(ge=2)]  # hidden channels; an operation is measured at the multiples and one more


class Surveyed(row_profiler.Surveyed[Arch]):
    """A TF-NAS space with the step of the widths that are measured."""

    def __init__(self, space: Space, step: int) -> None:
        self.space, self.step, self.name, self.example = space, step, space.name, space.middle()

    def chains(self) -> list[tuple[Piece, ...]]:
        """Networks of full depth that hold every operator at every width that is measured, at least once."""
        space, (low, high) = self.space, self.space.bounds()
        variants = []
        for i, layer in enumerate(space.layers):
            blocks = dict.fromkeys(
                Block(layer.side, space.row(i, o, h))
                for o in range(len(space.operations))
                for h in measured_widths(int(low[i, o]), int(high[i, o]), self.step)
            )
            variants.append(list(blocks))
        most = max(map(len, variants))
        # a layer that is like the one before takes other variants in the same chain
        return [(Given("first"), *(v[(n + i) % len(v)] for i, v in enumerate(variants)), Given("last")) for n in range(most)]

    def plan(self, network: Arch) -> Plan:
        return self.space.plan(network)

    def random(self, rng: np.random.Generator) -> Arch:
        """A network of any operations, rather small or rather large: drawn alike, all would be of middle size."""
        space, (low, high) = self.space, self.space.bounds()
        size, ops = rng.random(), rng.integers(len(space.operations), size=len(space.layers))
        depths = tuple(int(rng.integers(1, 2 + round(size * (stage.depth - 1)))) for stage in space.stages)
        places = np.arange(len(ops))
        least, most = low[places, ops], high[places, ops]
        widths = least + np.rint((most - least) * np.clip(size + rng.uniform(-0.3, 0.3, len(ops)), 0, 1)).astype(int)
        return Arch(tuple(ops.tolist()), depths, tuple(widths.tolist()))

    def table(self, classes: int, blocks: dict[Block, Entry], given_latency_ms: float, setting: dict[str, Any]) -> LatencyTable:
        points: dict[Operator, list[tuple[int, Entry]]] = {}
        for block, entry in blocks.items():
            points.setdefault(operator_of(block), []).append((block.row.hidden, entry))
        curves = {}
        for key in operators(self.space):
            hidden, found = zip(*sorted(points[key], key=lambda point: point[0]))
            curves[key] = Curve(hidden=hidden, latency_ms=tuple(e.latency_ms for e in found), spread=tuple(e.spread for e in found))
        return LatencyTable(self.space, classes, curves, given_latency_ms, setting)


def operator_of(block: Block) -> Operator:
    """What the block is but for its hidden channels."""
    r = block.row
    return Operator(block.side, r.c_in, r.se, r.c_out, r.kernel, r.stride, r.act)


def measured_widths(low: int, high: int, step: int) -> list[int]:
    """Both ends, and between them the multiples of the step and one more than each.

    A processor takes channels in groups: one channel beyond a whole number of groups costs as much as the next group, so
    latency is a staircase (a group of 16 on a CPU with AVX-512, 15 to 18 % a stair at 32 to 64 channels), and what is
    measured at multiples alone is too fast for all other widths.
    """
    edges = {w for m in range(low - low % step, high + 1, step) for w in (m, m + 1) if low <= w <= high}
    return sorted({low, high, *edges})

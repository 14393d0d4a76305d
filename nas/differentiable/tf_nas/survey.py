"""What a latency survey measures of a TF-NAS space: every operation at several widths.

Whole networks have widths that were not measured, so the errors of interpolation are judged with the rest.
"""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from nas.cost.latency import Entry
from nas.differentiable import survey
from nas.differentiable.rows import Plan
from nas.differentiable.survey import Given, Piece
from nas.differentiable.table import Block
from nas.differentiable.tf_nas.latency import Curve, LatencyTable, Operator, operators
from nas.differentiable.tf_nas.space import Choice, Space


class Latency(survey.Latency):
    """Section `latency`."""

    widths: Annotated[int, Field(ge=2)]  # of an operation, between its least and its most hidden channels


class Surveyed(survey.Surveyed[Choice]):
    """A TF-NAS space with the number of widths that are measured."""

    def __init__(self, space: Space, widths: int) -> None:
        self.space, self.widths, self.name, self.example = space, widths, space.name, space.middle()

    def chains(self) -> list[tuple[Piece, ...]]:
        """Networks of full depth that hold every operator at every width that is measured, at least once."""
        space, (low, high) = self.space, self.space.bounds()
        variants = []
        for i, layer in enumerate(space.layers):
            blocks = dict.fromkeys(
                Block(layer.side, space.row(i, o, h))
                for o in range(len(space.operations))
                for h in measured_widths(low[i, o], high[i, o], self.widths)
            )
            variants.append(list(blocks))
        most = max(map(len, variants))
        # a layer that is like the one before takes other variants in the same chain
        return [(Given("first"), *(v[(n + i) % len(v)] for i, v in enumerate(variants)), Given("last")) for n in range(most)]

    def plan(self, network: Choice) -> Plan:
        return self.space.plan(network)

    def random(self, rng: np.random.Generator) -> Choice:
        """A network of any operations, rather small or rather large: drawn alike, all would be of middle size."""
        space, (low, high) = self.space, self.space.bounds()
        size, ops = rng.random(), rng.integers(len(space.operations), size=len(space.layers))
        depths = tuple(int(rng.integers(1, 2 + round(size * (stage.depth - 1)))) for stage in space.stages)
        places = np.arange(len(ops))
        least, most = low[places, ops], high[places, ops]
        widths = least + np.rint((most - least) * np.clip(size + rng.uniform(-0.3, 0.3, len(ops)), 0, 1)).astype(int)
        return Choice(tuple(ops.tolist()), depths, tuple(widths.tolist()))

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


def measured_widths(low: int, high: int, number: int) -> list[int]:
    """So many numbers of hidden channels from the least to the most, evenly; fewer where there are not so many."""
    return sorted(set(np.linspace(low, high, number).round().astype(int).tolist()))

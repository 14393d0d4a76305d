"""What a latency survey measures of a HardCoRe-NAS space: every block in every configuration."""

from typing import Any

import numpy as np

from nas.cost.latency import Entry
from nas.cost.latency_file import Block
from nas.cost.latency_hardcore_nas import LatencyTable, Measured, all_blocks
from nas.latency import row_profiler
from nas.latency.row_profiler import Given, Piece
from nas.spaces.hardcore_nas import Arch, Space
from nas.spaces.rows import Plan


class Surveyed(row_profiler.Surveyed[Arch]):
    """A HardCoRe-NAS space."""

    def __init__(self, space: Space) -> None:
        self.space, self.name, self.example = space, space.name, space.plan(space.largest())

    def chains(self) -> list[tuple[Piece, ...]]:
        """Networks of full depth, one a configuration, that hold every block in every configuration.

        A block takes another configuration than the one before, so that no chain is light or heavy throughout.
        """
        n, places = len(self.space.configurations), all_blocks(self.space)
        order = list(dict.fromkeys((s, b) for s, b, _ in places))
        return [(Given("first"), *(places[s, b, (first + i) % n] for i, (s, b) in enumerate(order)), Given("last")) for first in range(n)]

    def plan(self, network: Arch) -> Plan:
        return self.space.plan(network)

    def random(self, rng: np.random.Generator) -> Arch:
        return self.space.random(rng)

    def table(self, classes: int, blocks: dict[Block, Entry], given_latency_ms: float, setting: dict[str, Any]) -> LatencyTable:
        found = {block: Measured(e.latency_ms, e.spread) for block, e in blocks.items()}
        return LatencyTable(self.space, classes, found, given_latency_ms, setting)

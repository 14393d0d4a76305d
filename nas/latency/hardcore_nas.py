"""Profiling a HardCoRe-NAS space: every block in every configuration."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nas.cost.latency import Entry, RowBlock
from nas.cost.latency_hardcore_nas import HardcoreNasLatencyTable, all_blocks
from nas.latency.rows import Block, FixedPart, ProfiledRows
from nas.spaces.hardcore_nas import Arch, Space
from nas.spaces.rows import Plan


class ProfiledHardcoreNas(ProfiledRows[Arch]):
    """A HardCoRe-NAS space, profiled."""

    def __init__(self, space: Space) -> None:
        self.space, self.name, self.example = space, space.name, space.plan(space.largest())

    def chains(self) -> list[tuple[Block, ...]]:
        """Networks of full depth, one per configuration, that hold every block in every configuration.

        A block takes another configuration than the one before, so that no chain is cheap or expensive throughout.
        """
        n, blocks = len(self.space.configurations), all_blocks(self.space)
        order = list(dict.fromkeys((s, b) for s, b, _ in blocks))
        ends = FixedPart("first"), FixedPart("last")
        return [(ends[0], *(blocks[s, b, (first + i) % n] for i, (s, b) in enumerate(order)), ends[1]) for first in range(n)]

    def plan(self, arch: Arch) -> Plan:
        return self.space.plan(arch)

    def random(self, rng: np.random.Generator) -> Arch:
        return self.space.random(rng)

    def table_of(
        self, classes: int, blocks: Mapping[RowBlock, Entry], fixed_latency_ms: float, setting: Mapping[str, Any]
    ) -> HardcoreNasLatencyTable:
        return HardcoreNasLatencyTable(self.space, classes, blocks, fixed_latency_ms, setting)

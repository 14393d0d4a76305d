"""Profiling a space whose networks are rows of inverted residual blocks: what TF-NAS and HardCoRe-NAS share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import nn

from nas.cost import flops
from nas.cost.latency import Entry, LatencyTable, RowBlock
from nas.latency import profiler
from nas.latency.backends.config import Torch
from nas.latency.fit import Correction
from nas.latency.profiler import ProfiledSpace
from nas.models.blocks import HeadLayer, InvertedResidual, RowNetwork, StemLayer, init_weights
from nas.models.fuse import fold
from nas.spaces.rows import Plan

CANDIDATES = 40  # random networks per measured one, to choose from

Arch = TypeVar("Arch")


class RowLatencyConfig(profiler.LatencyConfig):
    """Section `latency`."""

    backend: Torch  # the only one that runs these blocks


@dataclass(frozen=True)
class FixedPart:
    """Layers that every network has: "first", the stem and the block after it, or "last", the head and the classifier."""

    part: str


Block = RowBlock | FixedPart


class ProfiledRows(ProfiledSpace[Arch, Block]):
    """A space of networks of rows; its chains go from FixedPart("first") to FixedPart("last")."""

    example: Plan  # a network of the space

    @abstractmethod
    def plan(self, arch: Arch) -> Plan:
        """The network as rows."""

    @abstractmethod
    def random(self, rng: np.random.Generator) -> Arch:
        """A network of the space."""

    @abstractmethod
    def table_of(
        self, classes: int, blocks: Mapping[RowBlock, Entry], fixed_latency_ms: float, setting: Mapping[str, Any]
    ) -> LatencyTable[Arch]:
        """The table of these latencies."""

    def input_shape(self, block: Block) -> tuple[int, int]:
        return 3, self.example.resolution  # every chain starts with the stem

    def module(self, block: Block, classes: int) -> nn.Module:
        example = self.example
        if isinstance(block, RowBlock):
            module = InvertedResidual(block.row, example.squeeze)
        elif block.part == "first":
            module = nn.Sequential(StemLayer(example.stem), InvertedResidual(example.rows[0], example.squeeze))
        else:
            module = nn.Sequential(HeadLayer(example.c_last, example.head), nn.Linear(example.head.features, classes))
        return fold(module.apply(init_weights).eval())

    def resolution(self, arch: Arch) -> int:
        return self.plan(arch).resolution

    def network(self, arch: Arch, classes: int) -> nn.Module:
        return fold(RowNetwork(self.plan(arch), classes).eval())

    def table(self, classes: int, entries: Mapping[Block, Entry], correction: Correction, setting: Mapping[str, Any]) -> LatencyTable[Arch]:
        factor = correction.factor
        blocks = {b: Entry(factor * e.latency_ms, e.spread, e.times) for b, e in entries.items() if isinstance(b, RowBlock)}
        fixed_ms = correction.fixed_latency_ms + factor * sum(e.latency_ms for b, e in entries.items() if isinstance(b, FixedPart))
        return self.table_of(classes, blocks, fixed_ms, setting)

    def select(self, table: LatencyTable[Arch], fitted: int, validated: int, rng: np.random.Generator) -> list[Arch]:
        """Of random networks those nearest to latencies that are evenly spaced over their range."""
        candidates = list(dict.fromkeys(self.random(rng) for _ in range(CANDIDATES * (fitted + validated))))
        if len(candidates) < fitted + validated:
            raise ValueError(f"space {self.name!r} is too small for {fitted + validated} different networks; lower latency.networks")
        costs = np.array([table.latency_ms(arch) for arch in candidates])
        free = np.ones(len(candidates), bool)

        def evenly_spaced(n: int) -> list[Arch]:
            places = []
            for cost in np.linspace(costs.min(), costs.max(), n):
                places.append(int(np.where(free, np.abs(costs - cost), np.inf).argmin()))
                free[places[-1]] = False
            return [candidates[place] for place in sorted(places, key=lambda place: costs[place])]

        return [*evenly_spaced(fitted), *evenly_spaced(validated)]

    def mflops(self, archs: Sequence[Arch], classes: int) -> np.ndarray:
        return np.array([flops.multiply_adds(self.plan(arch), classes).total / flops.MFLOP for arch in archs])

"""Profiling an MBConv space: its chains, its blocks as modules, and networks over its range of latencies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.cost import flops
from nas.cost.flops import stage_sides
from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency import Entry
from nas.cost.latency_mbconv import Block, Head, MBConvBlock, MBConvLatencyTable, Stem, distinct_blocks
from nas.latency.fit import Correction
from nas.latency.modules import HeadModule, StemModule
from nas.latency.profiler import ProfiledSpace
from nas.models.extract import MBConv, Network
from nas.models.fuse import fold
from nas.sampling.exact import ExactSampler
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace

BINS = 2000  # of the sampler: strata are coarse, so a finer grid would only take memory
DRAWS = 8  # architectures drawn per stratum, of which one is new
PASSES = 5  # over the strata


class ProfiledMBConv(ProfiledSpace[Arch, Block]):
    """An MBConv space, profiled."""

    def __init__(self, space: SearchSpace) -> None:
        self.space, self.name = space, space.name

    def chains(self) -> list[tuple[Block, ...]]:
        """Chains through stem, stages and head; in each stage the first block and, if it is deeper, a later one.

        Every choice takes the block that is in the fewest chains so far, so that there are not many more chains than the stage
        with the most choices has.
        """
        chains, used = [], Counter()
        for resolution in self.space.resolutions:
            missing = set(distinct_blocks(replace(self.space, resolutions=(resolution,)))) - used.keys()
            while missing:
                chains.append(self._chain(resolution, used))
                used.update(chains[-1])
                missing -= used.keys()
        return chains

    def _chain(self, resolution: int, used: Counter) -> tuple[Block, ...]:
        space = self.space
        sides = stage_sides(space, resolution)

        def least_used(options: list[Block]) -> Block:
            return min(options, key=lambda block: used[block])

        blocks: list[Block] = [least_used([Stem(resolution, width) for width in space.stem_widths])]
        for s, side, after in zip(space.stages, sides, sides[1:]):
            c_in = blocks[-1].width
            first = [MBConvBlock(s.name, True, side, c_in, w, k, e) for w in s.widths for k in s.kernels for e in s.expansions]
            blocks.append(least_used(first))
            if s.depths[-1] > 1:
                width = blocks[-1].width
                blocks.append(least_used([MBConvBlock(s.name, False, after, width, width, k, e) for k in s.kernels for e in s.expansions]))
        return *blocks, least_used([Head(sides[-1], blocks[-1].width, width) for width in space.head_widths])

    def blocks(self) -> list[Block]:
        return distinct_blocks(self.space)

    def input_shape(self, block: Block) -> tuple[int, int]:
        return 3 if isinstance(block, Stem) else block.c_in, block.side

    @torch.no_grad()
    def module(self, block: Block, classes: int) -> nn.Module:
        if isinstance(block, Stem):
            return StemModule(block.width, self.space.stem_stride).eval()
        if isinstance(block, Head):
            return HeadModule(block.c_in, self.space.head_expansion, block.width, classes).eval()
        stage = next(s for s in self.space.stages if s.name == block.stage)
        stride = stage.stride if block.first else 1
        return fold(MBConv(block.c_in, block.width, block.kernel, block.expansion, stride, stage.se).eval()).eval()

    def resolution(self, arch: Arch) -> int:
        return arch.resolution

    @torch.no_grad()
    def network(self, arch: Arch, classes: int) -> nn.Module:
        return fold(Network(self.space, arch, classes).eval())

    def table(self, classes: int, entries: Mapping[Block, Entry], correction: Correction, setting: Mapping[str, Any]) -> MBConvLatencyTable:
        scaled = {block: replace(entry, latency_ms=correction.factor * entry.latency_ms) for block, entry in entries.items()}
        return MBConvLatencyTable(self.space, classes, scaled, correction.fixed_latency_ms, setting)

    def select(self, table: MBConvLatencyTable, fitted: int, validated: int, rng: np.random.Generator) -> list[Arch]:
        validation = stratified(table, validated, rng)
        return [*stratified(table, fitted, rng, frozenset(validation)), *validation]

    def mflops(self, archs: Sequence[Arch], classes: int) -> np.ndarray:
        return flops.table(self.space, classes).costs(encoding.to_genes(archs))

    def genes(self, arch: Arch) -> str:
        return " ".join(map(str, arch.genes))


def stratified(table: MBConvLatencyTable, n: int, rng: np.random.Generator, excluded: frozenset[Arch] = frozenset()) -> list[Arch]:
    """n different architectures, one from each of n equal strata of the range of latencies, cheapest first.

    Where a stratum has none, or none that is new, another stratum gives one more.

    Raises:
        ValueError: if the space has too few.
    """
    costs = table.costs
    sampler = ExactSampler(costs, (costs.largest - costs.smallest) / n or 1.0, bins=BINS)
    edges = np.linspace(costs.smallest, costs.largest, n + 1)
    archs: dict[Arch, None] = {}
    for _ in range(PASSES):
        for low, high in pairwise(edges):
            if len(archs) < n and (arch := _new(sampler, low, high, rng, excluded | archs.keys())) is not None:
                archs[arch] = None
        if len(archs) == n:
            return sorted(archs, key=costs.cost)
    raise ValueError(
        f"space {table.space.name!r} has too few architectures for {n} different networks to measure; lower params.yaml: latency.networks"
    )


def _new(sampler: ExactSampler, low: float, high: float, rng: np.random.Generator, excluded: frozenset[Arch]) -> Arch | None:
    try:
        drawn = sampler.draw_between(low, high, DRAWS, rng).archs()
    except InfeasibleTarget:  # an empty stratum
        return None
    return next((arch for arch in drawn if arch not in excluded), None)

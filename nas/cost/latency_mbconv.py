"""The latency table of an MBConv space: one entry per distinct stem, block and head; a `CostTable` in ms like FLOPs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nas.cost import latency
from nas.cost.flops import stage_sides
from nas.cost.latency import MAX_MS, Entry, EntryLine, LatencyTableError, line_of, values
from nas.cost.table import CostTable
from nas.spaces.mbconv import Arch, SearchSpace


@dataclass(frozen=True, order=True)
class Stem:
    """The convolution that a network starts with."""

    side: int  # of the images, pixels
    width: int  # channels


@dataclass(frozen=True, order=True)
class MBConvBlock:
    """One MBConv block: the first of its stage, or a later one; all later ones of a stage are equal."""

    stage: str
    first: bool
    side: int  # of its input, pixels
    c_in: int
    width: int  # output channels
    kernel: int
    expansion: int


@dataclass(frozen=True, order=True)
class Head:
    """The layers after the last stage, including the classifier."""

    side: int  # of its input, pixels
    c_in: int
    width: int  # channels before the classifier


Block = Stem | MBConvBlock | Head
PARTS = {"stem": Stem, "block": MBConvBlock, "head": Head}
_LINES = tuple(line_of(block, EntryLine, part=(Literal[part], ...)) for part, block in PARTS.items())


def blocks_of(space: SearchSpace, arch: Arch) -> list[Block]:
    """The blocks of an architecture, in order; blocks of the same shape are equal.

    Raises:
        ValueError: if the architecture is not in the space.
    """
    sides = stage_sides(space, space.check(arch).resolution)
    blocks: list[Block] = [Stem(arch.resolution, arch.stem)]
    c_in = arch.stem
    for stage, chosen, side, after in zip(space.stages, arch.stages, sides, sides[1:]):
        blocks.append(MBConvBlock(stage.name, True, side, c_in, chosen.width, chosen.kernel, chosen.expansion))
        c_in = chosen.width
        blocks += [MBConvBlock(stage.name, False, after, c_in, c_in, chosen.kernel, chosen.expansion)] * (chosen.depth - 1)
    return [*blocks, Head(sides[-1], c_in, arch.head)]


def distinct_blocks(space: SearchSpace) -> list[Block]:
    """Every block of any architecture of the space, each once, in the order of the chain."""
    return list(dict.fromkeys(_all_blocks(space)))


def _all_blocks(space: SearchSpace) -> Iterator[Block]:
    sides = [stage_sides(space, r) for r in space.resolutions]
    yield from (Stem(*choice) for choice in product(space.resolutions, space.stem_widths))
    before = space.stem_widths
    for i, s in enumerate(space.stages):
        yield from (MBConvBlock(s.name, True, *c) for c in product([side[i] for side in sides], before, s.widths, s.kernels, s.expansions))
        if s.depths[-1] > 1:
            later = product([side[i + 1] for side in sides], s.widths, s.kernels, s.expansions)
            yield from (MBConvBlock(s.name, False, side, width, width, *c) for side, width, *c in later)
        before = s.widths
    yield from (Head(*choice) for choice in product([side[-1] for side in sides], before, space.head_widths))


@dataclass(frozen=True, eq=False)
class MBConvLatencyTable(latency.LatencyTable[Arch]):
    """Per-block latencies of an MBConv space; `entries` by block."""

    NAME: ClassVar = "latency table"
    COMMAND: ClassVar = "dvc repro -f latency"
    LINE: ClassVar = Annotated[_LINES[0] | _LINES[1] | _LINES[2], Field(discriminator="part")]
    VERSION_1: ClassVar = {}

    def check_entries(self) -> None:
        if missing := [block for block in distinct_blocks(self.space) if block not in self.entries]:
            raise LatencyTableError(f"no latency of {missing[0]} ({len(missing)} of the blocks of space {self.space.name!r} are missing)")
        for block, entry in self.entries.items():
            if not 0 < entry.latency_ms <= MAX_MS:
                raise LatencyTableError(f"latency_ms {entry.latency_ms} of {block}: a positive number is needed, at most {MAX_MS:g}")

    def latency_ms(self, arch: Arch) -> float:
        return self.fixed_latency_ms + sum(self._of(block) for block in blocks_of(self.space, arch))

    @property
    def range_ms(self) -> tuple[float, float]:
        return self.costs.smallest, self.costs.largest

    @cached_property
    def costs(self) -> CostTable:
        """The latency of every architecture, in ms for a whole batch: the same interface as FLOPs."""
        of, space = self._of, self.space
        shapes = CostTable.shapes(space)
        sides = [stage_sides(space, r) for r in space.resolutions]
        stem = [self.fixed_latency_ms + of(Stem(*choice)) for choice in product(space.resolutions, space.stem_widths)]
        stages, before = [], space.stem_widths
        for i, s in enumerate(space.stages):
            choices = product(sides, before, s.widths, s.depths, s.kernels, s.expansions)
            latencies = [
                of(MBConvBlock(s.name, True, side[i], c_in, width, *shape))
                + ((depth - 1) * of(MBConvBlock(s.name, False, side[i + 1], width, width, *shape)) if depth > 1 else 0.0)
                for side, c_in, width, depth, *shape in choices
            ]
            stages.append(np.array(latencies).reshape(shapes[1 + i]))
            before = s.widths
        head = [of(Head(side[-1], c_in, width)) for side, c_in, width in product(sides, before, space.head_widths)]
        return CostTable(
            space=space,
            unit="ms",
            per_unit=1,
            stem=np.array(stem).reshape(shapes[0]),
            stages=tuple(stages),
            head=np.array(head).reshape(shapes[-1]),
        )

    def lines(self) -> Iterator[dict[str, Any]]:
        names = {block: part for part, block in PARTS.items()}
        return ({"part": names[type(block)], **asdict(block), **asdict(entry)} for block, entry in self.entries.items())

    @classmethod
    def item(cls, line: Any) -> tuple[Block, Entry]:
        block = PARTS[line.part]
        return block(**values(line, block)), line.entry

    def _of(self, block: Block) -> float:
        return self.entries[block].latency_ms


def cost_table(space: SearchSpace, classes: int, path: str | Path) -> CostTable:
    """The latencies in a file as a cost in ms, for sampling, search and bounds; raises as `MBConvLatencyTable.load`."""
    return MBConvLatencyTable.load(path, space, classes).costs

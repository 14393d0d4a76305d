"""The search space of HardCoRe-NAS (arXiv:2102.11646, section 3.1): a depth per stage, a configuration per block.

A configuration is an expansion, a kernel and whether there is squeeze-and-excitation. An architecture lists the indices of
configurations, stage by stage; as a `Plan` of rows it is a network whose costs follow from shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from nas.runtime.params import Section, check
from nas.spaces.mbconv import MAX_VALUE, make_divisible, read_space
from nas.spaces.rows import Activation, Head, Plan, Row, Squeeze, Stem

SQUEEZE = Squeeze(act="ReLU", gate="HSigmoid")  # MobileNetV3's

Size = Annotated[int, Field(ge=1, le=MAX_VALUE)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]
Stride = Annotated[int, Field(ge=1, le=2)]


class Arch(tuple[tuple[int, ...], ...]):
    """One architecture: per stage a tuple with the configuration index of every block; its length is the stage's depth."""

    __slots__ = ()


@dataclass(frozen=True)
class Configuration:
    """Choices of one block."""

    expansion: int  # hidden channels / input channels
    kernel: int  # depthwise kernel side, pixels, odd
    se: bool  # squeeze-and-excitation after the depthwise convolution


class StemSpace(Section):
    """The 3x3 convolution at the start."""

    width: Size  # channels
    stride: Stride
    act: Activation


class FixedSpace(Section):
    """The block after the stem, not searched: depthwise and 1x1 convolution."""

    width: Size  # channels
    kernel: Size  # pixels, odd
    act: Activation


class StageSpace(Section):
    """A run of blocks with the same output channels; only the first has the stride."""

    name: str
    width: Size  # channels
    depths: Sizes  # numbers of blocks
    stride: Stride
    act: Activation


class HeadSpace(Section):
    """1x1 convolution, average pool, 1x1 convolution."""

    width: Size  # channels before the pool
    mix: Size  # channels after the pool
    act: Activation


class Space(Section):
    """All architectures of one one-shot model."""

    name: str
    resolution: Size  # side of the images, pixels
    stem: StemSpace
    fixed: FixedSpace
    stages: Annotated[tuple[StageSpace, ...], Field(min_length=1)]
    expansions: Sizes
    kernels: Sizes
    se: Annotated[tuple[bool, ...], Field(min_length=1)]
    head: HeadSpace

    @model_validator(mode="after")
    def _consistent(self) -> "Space":
        lists = [("expansions", self.expansions), ("kernels", self.kernels), ("se", self.se)]
        lists += [(f"stages.{i}.depths", stage.depths) for i, stage in enumerate(self.stages)]
        for name, values in lists:
            if sorted(set(values)) != list(values):
                raise ValueError(f"{name}: values must ascend without repetition, not {list(values)}")
        if even := [k for k in (*self.kernels, self.fixed.kernel) if k % 2 == 0]:
            raise ValueError(f"kernel sides are odd, not {even[0]}")
        if self.expansions[0] == 1:
            raise ValueError("expansions: at least 2 are needed: a block without expansion has no expansion layer to share")
        return self

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """All configurations; expansion changes slowest, squeeze-and-excitation fastest."""
        return tuple(Configuration(*choice) for choice in product(self.expansions, self.kernels, self.se))

    @property
    def blocks(self) -> int:
        """Number of blocks of the deepest stage."""
        return max(stage.depths[-1] for stage in self.stages)

    @property
    def size(self) -> int:
        """Number of architectures."""
        return prod(sum(len(self.configurations) ** depth for depth in stage.depths) for stage in self.stages)

    @property
    def offered(self) -> np.ndarray:
        """(stages, blocks) bool: whether the stage offers depth 1, 2, ..."""
        return np.array([[1 + b in stage.depths for b in range(self.blocks)] for stage in self.stages])

    def largest(self) -> Arch:
        """Full depth, the largest expansion and kernel everywhere, squeeze-and-excitation where offered."""
        return Arch((len(self.configurations) - 1,) * stage.depths[-1] for stage in self.stages)

    def random(self, rng: np.random.Generator) -> Arch:
        """Uniform over the depths of every stage, then over the configurations of every block."""
        return Arch(tuple(rng.integers(len(self.configurations), size=rng.choice(stage.depths)).tolist()) for stage in self.stages)

    def check(self, arch: Arch) -> Arch:
        """The architecture itself.

        Raises:
            ValueError: if it is not in this space.
        """
        if len(arch) != len(self.stages):
            raise ValueError(f"{len(arch)} stages, but space {self.name!r} has {len(self.stages)}")
        for stage, blocks in zip(self.stages, arch):
            if len(blocks) not in stage.depths:
                raise ValueError(f"{len(blocks)} blocks are not offered in stage {stage.name!r}; it lists {list(stage.depths)}")
            if unknown := [c for c in blocks if c not in range(len(self.configurations))]:
                raise ValueError(f"stage {stage.name!r}: there is no configuration {unknown[0]}; there are {len(self.configurations)}")
        return arch

    def row(self, stage: int, block: int, configuration: int) -> Row:
        """A block of a stage in one configuration; the input channels of block 0 are the width of the stage before."""
        at, chosen = self.stages[stage], self.configurations[configuration]
        c_in = at.width if block else self.stages[stage - 1].width if stage else self.fixed.width
        hidden = c_in * chosen.expansion
        se = make_divisible(hidden / 4) if chosen.se else 0
        return Row(c_in, hidden, se, at.width, chosen.kernel, 1 if block else at.stride, at.act)

    def plan(self, arch: Arch) -> Plan:
        """The network as rows.

        Raises:
            ValueError: if the architecture is not in this space.
        """
        width = self.stem.width
        fixed = Row(width, width, 0, self.fixed.width, self.fixed.kernel, 1, self.fixed.act)
        rows = [self.row(s, b, c) for s, stage in enumerate(self.check(arch)) for b, c in enumerate(stage)]
        stem, head = Stem(width, self.stem.stride, self.stem.act), Head(self.head.width, self.head.act, self.head.mix)
        return Plan(self.resolution, stem, (fixed, *rows), head, SQUEEZE)

    def sides(self) -> tuple[int, ...]:
        """(stages,) input side of every stage, pixels."""
        sides = self.plan(self.largest()).sides[1:]
        return tuple(sides[sum(stage.depths[-1] for stage in self.stages[:s])] for s in range(len(self.stages)))

    def arch(self, rows: Sequence[Row]) -> Arch:
        """The architecture with these searched blocks: the inverse of `plan`, whose first row is the fixed block.

        Raises:
            ValueError: if no architecture of the space has them.
        """
        stages: list[list[int]] = [[] for _ in self.stages]
        s = 0
        for row in rows:
            if stages[s] and (row.c_out != self.stages[s].width or row.stride > 1):
                s = min(s + 1, len(stages) - 1)
            matches = [c for c in range(len(self.configurations)) if self.row(s, len(stages[s]), c) == row]
            if not matches:
                raise ValueError(f"{row} is not offered as block {len(stages[s])} of stage {self.stages[s].name!r} of {self.name!r}")
            stages[s].append(matches[0])
        return self.check(Arch(map(tuple, stages)))


def load(path: str | Path) -> Space:
    """Read a space from YAML; `nas/spaces/hardcore_nas.yaml` shows the form.

    Raises:
        FileNotFoundError: if there is no such file.
        SpaceError: if it is not YAML.
        ParamsError: for missing, unknown or impossible entries; names the file and the key.
    """
    return check({"space": read_space(path)}, "space", Space, Path(path))

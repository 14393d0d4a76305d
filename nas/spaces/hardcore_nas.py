"""The search space of HardCoRe-NAS (arXiv:2102.11646, section 3.1): a depth for every stage, a configuration for every block.

A configuration is an expansion, a kernel and whether there is squeeze-and-excitation. An architecture is a value, a list of
numbers of configurations for each stage; as a `Plan` of rows it is a network, with costs from shapes alone.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from nas.runtime.io import is_file, read_json, read_yaml
from nas.runtime.params import Section, check
from nas.spaces.mbconv import LARGEST, SpaceError, make_divisible
from nas.spaces.rows import Head, Plan, Row, Squeeze, Stem

FOLDER = Path(__file__).parent
SQUEEZE = Squeeze(act="ReLU", gate="HSigmoid")  # MobileNetV3's

Act = Literal["ReLU", "ReLU6", "Swish", "HSwish"]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]
Stride = Annotated[int, Field(ge=1, le=2)]


class Arch(tuple[tuple[int, ...], ...]):
    """One network: for each stage the configurations of its blocks, by number; as many as are listed run."""

    __slots__ = ()


@dataclass(frozen=True)
class Configuration:
    """What a block can be."""

    expansion: int  # hidden channels / input channels
    kernel: int  # depthwise kernel side, pixels, odd
    se: bool  # squeeze-and-excitation after the depthwise convolution


class StemSpace(Section):
    """The 3x3 convolution in front."""

    width: Size  # channels
    stride: Stride
    act: Act


class FixedSpace(Section):
    """The block after the stem, that is not searched: depthwise and 1x1 convolution."""

    width: Size  # channels
    kernel: Size  # pixels, odd
    act: Act


class StageSpace(Section):
    """A run of blocks with the same output channels; only the first has the stride."""

    name: str
    width: Size  # channels
    depths: Sizes  # numbers of blocks
    stride: Stride
    act: Act


class HeadSpace(Section):
    """1x1 convolution, average pool, 1x1 convolution."""

    width: Size  # channels before the pool
    mix: Size  # channels after it
    act: Act


class Space(Section):
    """All networks of one one-shot model."""

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
    def _fits(self) -> "Space":
        lists = [("expansions", self.expansions), ("kernels", self.kernels), ("se", self.se)]
        lists += [(f"stages.{i}.depths", stage.depths) for i, stage in enumerate(self.stages)]
        for name, values in lists:
            if sorted(set(values)) != list(values):
                raise ValueError(f"{name}: ascending, each once, are needed, not {list(values)}")
        if even := [k for k in (*self.kernels, self.fixed.kernel) if k % 2 == 0]:
            raise ValueError(f"kernel sides are odd, not {even[0]}")
        if self.expansions[0] == 1:
            raise ValueError("expansions: at least 2 are needed: a block without expansion has no expansion layer to share")
        return self

    @cached_property
    def configurations(self) -> tuple[Configuration, ...]:
        """By number: expansion changes slowest, squeeze-and-excitation fastest."""
        return tuple(Configuration(*choice) for choice in product(self.expansions, self.kernels, self.se))

    @property
    def blocks(self) -> int:
        """Of the deepest stage."""
        return max(stage.depths[-1] for stage in self.stages)

    @property
    def size(self) -> int:
        """Number of networks."""
        return prod(sum(len(self.configurations) ** depth for depth in stage.depths) for stage in self.stages)

    @property
    def offered(self) -> np.ndarray:
        """(stages, blocks) whether a stage may have 1, 2, ... blocks."""
        return np.array([[1 + b in stage.depths for b in range(self.blocks)] for stage in self.stages])

    def largest(self) -> Arch:
        """As deep as can be, everywhere the largest expansion and kernel, with squeeze-and-excitation where there is a choice."""
        return Arch((len(self.configurations) - 1,) * stage.depths[-1] for stage in self.stages)

    def random(self, rng: np.random.Generator) -> Arch:
        """Uniform over the depths of each stage, then over the configurations of each block."""
        return Arch(tuple(rng.integers(len(self.configurations), size=rng.choice(stage.depths)).tolist()) for stage in self.stages)

    def check(self, arch: Arch) -> Arch:
        """The architecture itself.

        Raises:
            ValueError: if it is not in this space.
        """
        if len(arch) != len(self.stages):
            raise ValueError(f"{len(arch)} stages, but space {self.name!r} has {len(self.stages)}")
        for stage, found in zip(self.stages, arch):
            if len(found) not in stage.depths:
                raise ValueError(f"{len(found)} blocks are not offered in stage {stage.name!r}; it lists {list(stage.depths)}")
            if wrong := [c for c in found if c not in range(len(self.configurations))]:
                raise ValueError(f"stage {stage.name!r}: there is no configuration {wrong[0]}; there are {len(self.configurations)}")
        return arch

    def row(self, stage: int, block: int, configuration: int) -> Row:
        """A block of a stage in one of its configurations; block 0 takes what the stage before gives."""
        here, chosen = self.stages[stage], self.configurations[configuration]
        c_in = here.width if block else self.stages[stage - 1].width if stage else self.fixed.width
        hidden = c_in * chosen.expansion
        se = make_divisible(hidden / 4) if chosen.se else 0
        return Row(c_in, hidden, se, here.width, chosen.kernel, 1 if block else here.stride, here.act)

    def plan(self, arch: Arch) -> Plan:
        """The whole network.

        Raises:
            ValueError: if the architecture is not in this space.
        """
        width = self.stem.width
        fixed = Row(width, width, 0, self.fixed.width, self.fixed.kernel, 1, self.fixed.act)
        rows = [self.row(s, b, c) for s, stage in enumerate(self.check(arch)) for b, c in enumerate(stage)]
        stem, head = Stem(width, self.stem.stride, self.stem.act), Head(self.head.width, self.head.act, self.head.mix)
        return Plan(self.resolution, stem, (fixed, *rows), head, SQUEEZE)

    def sides(self) -> tuple[int, ...]:
        """(stages,) side of the images that the first block of each stage takes, pixels."""
        sides = self.plan(self.largest()).sides[1:]
        return tuple(sides[sum(stage.depths[-1] for stage in self.stages[:s])] for s in range(len(self.stages)))


def load(path: Path) -> Space:
    """Read a space from YAML; `nas/spaces/hardcore_nas.yaml` shows the form.

    Raises:
        FileNotFoundError: if there is no such file.
        ParamsError: for missing, unknown or impossible entries; names the file and the key.
    """
    if not is_file(path):
        raise FileNotFoundError(f"there is no file {path}; found {sorted(str(p) for p in path.parent.glob('*.yaml'))} beside it")
    return check({"space": read_yaml(path, SpaceError)}, "space", Space, path)


@dataclass(frozen=True)
class Published:
    """A network of the paper."""

    name: str
    arch: Arch
    mmacs: float  # millions of multiply-accumulates at 224 px with 1000 classes, without biases and pools
    parameters: float  # millions


@cache
def published() -> tuple[Published, ...]:
    """HardCoRe-NAS A to F, all in the space `hardcore_nas.yaml`."""
    space = load(FOLDER / "hardcore_nas.yaml")
    found = read_json(FOLDER / "hardcore_nas_published.json")["networks"]
    return tuple(Published(n["name"], arch_of(space, [Row(*row) for row in n["rows"]]), n["macs_m"], n["params_m"]) for n in found)


def arch_of(space: Space, rows: list[Row]) -> Arch:
    """The architecture whose searched blocks these rows are: the inverse of `Space.plan`.

    Raises:
        ValueError: if no architecture of the space has them.
    """
    stages: list[list[int]] = [[] for _ in space.stages]
    at = 0
    for row in rows:
        if stages[at] and (row.c_out != space.stages[at].width or row.stride > 1):
            at = min(at + 1, len(stages) - 1)
        places = [c for c in range(len(space.configurations)) if space.row(at, len(stages[at]), c) == row]
        if not places:
            raise ValueError(f"{row} is not offered as block {len(stages[at])} of stage {space.stages[at].name!r} of {space.name!r}")
        stages[at].append(places[0])
    return space.check(Arch(map(tuple, stages)))

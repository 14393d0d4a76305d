"""TF-NAS's search spaces: operations, depths and widths that a network is chosen from, as YAML; its published networks.

TF-NAS (arXiv:2008.05314), section 3.1 and Table 1. A stage is a run of up to so many layers; in each layer one operation,
an inverted residual block, is chosen, and its hidden width anywhere between two multiples of the layer's input
channels. The first and the last parts of a network are given.
"""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nas.runtime import params
from nas.runtime.io import is_file, read_yaml
from nas.spaces import rows
from nas.spaces.rows import Plan, Row

FOLDER = Path(__file__).parent

Channels = Annotated[int, Field(ge=1)]
Stride = Literal[1, 2]
Activation = Literal["ReLU", "ReLU6", "Swish", "HSwish"]  # of nas.models.blocks.ACTIVATIONS


class Operation(params.Section):
    """What may stand in a layer."""

    kernel: Literal[3, 5, 7]  # of the depthwise convolution, pixels
    expansion: tuple[int, int]  # least and most hidden channels, as multiples of the channels in
    se: Annotated[int, Field(ge=0)]  # channels of the squeeze-and-excitation, as a multiple of the channels in; 0: there is none

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 2 <= self.expansion[0] <= self.expansion[1]:
            raise ValueError("expansion: two whole numbers from 2 on are needed, the smaller first")
        return self

    @property
    def name(self) -> str:
        """E.g. "k3 e2-4 se1"."""
        return f"k{self.kernel} e{self.expansion[0]}-{self.expansion[1]} se{self.se}"


class Stage(params.Section):
    """A run of layers; the first has the stride."""

    width: Channels  # output channels of every layer
    depth: Annotated[int, Field(ge=1)]  # most layers; the least is one
    stride: Stride
    act: Activation


class Stem(params.Section):
    """The 3x3 convolution at the start and the block after it, which are not searched."""

    width: Channels
    stride: Stride
    act: Activation
    block_width: Channels  # output channels of the block, which has no expansion
    block_se: Annotated[int, Field(ge=0)]  # channels of its squeeze-and-excitation; 0: there is none


class Head(params.Section):
    """The 1x1 convolution at the end, which is not searched."""

    width: Channels
    act: Activation


@dataclass(frozen=True)
class Layer:
    """A place for an operation."""

    stage: int  # place of its stage
    number: int  # within the stage, from 0
    side: int  # of its input, pixels
    c_in: int
    c_out: int
    stride: int
    act: str


@dataclass(frozen=True)
class Choice:
    """One network of the space, widths and all."""

    operations: tuple[int, ...]  # (layers,) place in `Space.operations`; of layers that are not used too
    depths: tuple[int, ...]  # (stages,)
    widths: tuple[int, ...]  # (layers,) hidden channels


class Space(params.Section):
    """A search space; `Widths`, an int array (layers, operations), holds the hidden channels of every operation."""

    name: str
    resolution: Annotated[int, Field(ge=8)]  # side of the images, pixels
    stem: Stem
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    head: Head
    operations: Annotated[tuple[Operation, ...], Field(min_length=2)]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every place for an operation, in order."""
        found, side, c_in = [], self.first.sides[-1], self.stem.block_width
        for s, stage in enumerate(self.stages):
            for number in range(stage.depth):
                stride = stage.stride if number == 0 else 1
                found.append(Layer(s, number, side, c_in, stage.width, stride, stage.act))
                side, c_in = -(-side // stride), stage.width
        return tuple(found)

    @cached_property
    def first(self) -> Plan:
        """A plan of what comes before the searched layers; its head is the space's, so its multiply-adds mean nothing."""
        stem, width = self.stem, self.stem.width
        block = Row(width, width, stem.block_se, stem.block_width, 3, 1, stem.act)
        start, end = rows.Stem(width, stem.stride, stem.act), rows.Head(self.head.width, self.head.act)
        return Plan(self.resolution, start, (block,), end, rows.Squeeze(None, "Sigmoid"))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and most hidden channels, each (layers, operations)."""
        found = np.array([[[e * layer.c_in for e in op.expansion] for op in self.operations] for layer in self.layers])
        return found[..., 0], found[..., 1]

    def start_widths(self) -> np.ndarray:
        """(layers, operations) hidden channels that a search starts with: the middle between least and most."""
        low, high = self.bounds()
        return (low + high) // 2

    def row(self, layer: int, operation: int, hidden: int) -> Row:
        """The block of an operation with so many hidden channels in a layer."""
        place, op = self.layers[layer], self.operations[operation]
        return Row(place.c_in, hidden, op.se * place.c_in, place.c_out, op.kernel, place.stride, place.act)

    def used(self, depths: tuple[int, ...]) -> list[int]:
        """Layers that a network of these depths has.

        Raises:
            ValueError: for a depth that a stage does not offer.
        """
        for s, (stage, depth) in enumerate(zip(self.stages, depths, strict=True)):
            if not 1 <= depth <= stage.depth:
                raise ValueError(f"depth {depth} of stage {s}: space {self.name!r} offers 1 to {stage.depth}")
        return [i for i, layer in enumerate(self.layers) if layer.number < depths[layer.stage]]

    def plan(self, choice: Choice) -> Plan:
        """The network as rows.

        Raises:
            ValueError: for what the space does not offer.
        """
        low, high = self.bounds()
        found = []
        for i in self.used(choice.depths):
            op, hidden = choice.operations[i], choice.widths[i]
            if not 0 <= op < len(self.operations) or not low[i, op] <= hidden <= high[i, op]:
                raise ValueError(f"layer {i}: operation {op} with {hidden} hidden channels is not in space {self.name!r}")
            found.append(self.row(i, op, hidden))
        first = self.first
        return Plan(first.resolution, first.stem, (*first.rows, *found), first.head, first.squeeze)

    def middle(self) -> Plan:
        """The network of full depth with the first operation everywhere, at the widths that a search starts with."""
        widths = self.start_widths()[:, 0].tolist()
        return self.plan(Choice((0,) * len(widths), tuple(stage.depth for stage in self.stages), tuple(widths)))

    def choice(self, plan: Plan) -> Choice:
        """The other way round; a block that two operations could be, their ranges touching, is taken for the first of them.

        Raises:
            ValueError: for a network that is not in the space.
        """
        low, high = self.bounds()
        operations, widths = np.zeros(len(self.layers), int), low[:, 0].copy()
        left, depths = list(plan.rows[1:]), []
        for s, stage in enumerate(self.stages):
            depth = 0
            for i in (i for i, layer in enumerate(self.layers) if layer.stage == s):
                fits = [
                    o
                    for o in range(len(self.operations))
                    if left and low[i, o] <= left[0].hidden <= high[i, o] and self.row(i, o, left[0].hidden) == left[0]
                ]
                if not fits:
                    break
                operations[i], widths[i], depth = fits[0], left.pop(0).hidden, depth + 1
            if depth == 0:
                raise ValueError(
                    f"stage {s} of space {self.name!r} (width {stage.width}) cannot begin with {left[0] if left else 'nothing'}"
                )
            depths.append(depth)
        found = Choice(tuple(operations.tolist()), tuple(depths), tuple(widths.tolist()))
        if left or self.plan(found) != plan:
            raise ValueError(f"{left[0] if left else 'stem, head or resolution'} is not in space {self.name!r}")
        return found


def load(path: str | Path) -> Space:
    """Read a search space; nas/spaces/tf_nas_glyphs.yaml shows the form.

    Raises:
        FileNotFoundError: if there is no such file.
        ParamsError: for missing, unknown or impossible entries; names the file and the key.
    """
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(f"space: there is no file {path}; those of this package are {sorted(map(str, FOLDER.glob('*.yaml')))}")
    return params.check({"space": read_yaml(path, params.ParamsError)}, "space", Space, path)


@dataclass(frozen=True)
class Published:
    """A network of the paper (supplement, Tables 9 to 20)."""

    name: str  # e.g. "TF-NAS-A"
    plan: Plan
    published_mflops: int  # with 1000 classes, in the paper
    space: str  # file in `FOLDER` that it was searched in


@cache
def published() -> tuple[Published, ...]:
    """The twelve networks of the paper."""
    found = json.loads((FOLDER / "tf_nas_published.json").read_text())["networks"]
    return tuple(_published(entry) for entry in found)


def _published(entry: dict) -> Published:
    first = load(FOLDER / entry["space"]).first
    plan = Plan(first.resolution, first.stem, tuple(Row(*row) for row in entry["rows"]), first.head, first.squeeze)
    return Published(entry["name"], plan, entry["published_mflops"], entry["space"])

"""TF-NAS's search spaces: operations, depths and widths, as YAML.

TF-NAS (arXiv:2008.05314), section 3.1 and Table 1. A stage is a run of layers of variable depth. Every layer takes one
operation, an inverted residual block, with any number of hidden channels between two multiples of the layer's input
channels. Stem, first block and head are fixed.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nas.runtime import params
from nas.spaces import rows
from nas.spaces.mbconv import read_space
from nas.spaces.rows import Activation, Plan, Row

Channels = Annotated[int, Field(ge=1)]
Stride = Literal[1, 2]


class Operation(params.Section):
    """An inverted residual block that a layer can take."""

    kernel: Literal[3, 5, 7]  # of the depthwise convolution, pixels
    expansion: tuple[int, int]  # least and most hidden channels, as multiples of the input channels
    se: Annotated[int, Field(ge=0)]  # channels of the squeeze-and-excitation, as a multiple of the input channels; 0: none

    @model_validator(mode="after")
    def _ordered(self) -> Self:
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
    """The 3x3 convolution at the start and the block after it, both fixed."""

    width: Channels
    stride: Stride
    act: Activation
    block_width: Channels  # output channels of the block, which has no expansion
    block_se: Annotated[int, Field(ge=0)]  # channels of its squeeze-and-excitation; 0: none


class Head(params.Section):
    """The fixed 1x1 convolution at the end."""

    width: Channels
    act: Activation


@dataclass(frozen=True)
class Layer:
    """Position and shape of a searched layer."""

    stage: int  # index of its stage
    index: int  # within the stage
    side: int  # of its input, pixels
    c_in: int
    c_out: int
    stride: int
    act: Activation


@dataclass(frozen=True)
class Arch:
    """One architecture of the space, with its hidden widths."""

    operations: tuple[int, ...]  # (layers,) index in `Space.operations`; also of layers beyond the depth
    depths: tuple[int, ...]  # (stages,)
    widths: tuple[int, ...]  # (layers,) hidden channels


class Space(params.Section):
    """A search space. Arrays `widths`, int (layers, operations), hold the hidden channels of every operation."""

    name: str
    resolution: Annotated[int, Field(ge=8)]  # side of the images, pixels
    stem: Stem
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    head: Head
    operations: Annotated[tuple[Operation, ...], Field(min_length=2)]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All searched layers at full depth, in order."""
        layers, side, c_in = [], self.fixed.sides[-1], self.stem.block_width
        for s, stage in enumerate(self.stages):
            for index in range(stage.depth):
                stride = stage.stride if index == 0 else 1
                layers.append(Layer(s, index, side, c_in, stage.width, stride, stage.act))
                side, c_in = -(-side // stride), stage.width
        return tuple(layers)

    @cached_property
    def fixed(self) -> Plan:
        """Stem, first block and head, without the searched layers between them: multiply-adds of this plan mean nothing."""
        stem, width = self.stem, self.stem.width
        block = Row(width, width, stem.block_se, stem.block_width, 3, 1, stem.act)
        start, end = rows.Stem(width, stem.stride, stem.act), rows.Head(self.head.width, self.head.act)
        return Plan(self.resolution, start, (block,), end, rows.Squeeze(None, "Sigmoid"))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and most hidden channels, each (layers, operations)."""
        bounds = np.array([[[e * layer.c_in for e in op.expansion] for op in self.operations] for layer in self.layers])
        return bounds[..., 0], bounds[..., 1]

    def start_widths(self) -> np.ndarray:
        """(layers, operations) hidden channels at the start of a search: the middle between least and most."""
        low, high = self.bounds()
        return (low + high) // 2

    def row(self, layer: int, operation: int, hidden: int) -> Row:
        """The block of an operation in a layer with this number of hidden channels."""
        at, op = self.layers[layer], self.operations[operation]
        return Row(at.c_in, hidden, op.se * at.c_in, at.c_out, op.kernel, at.stride, at.act)

    def active_layers(self, depths: tuple[int, ...]) -> list[int]:
        """Indices of the layers within these depths.

        Raises:
            ValueError: for a depth that a stage does not offer.
        """
        for s, (stage, depth) in enumerate(zip(self.stages, depths, strict=True)):
            if not 1 <= depth <= stage.depth:
                raise ValueError(f"depth {depth} of stage {s}: space {self.name!r} offers 1 to {stage.depth}")
        return [i for i, layer in enumerate(self.layers) if layer.index < depths[layer.stage]]

    def plan(self, arch: Arch) -> Plan:
        """The network as rows.

        Raises:
            ValueError: if the architecture is not in this space.
        """
        low, high = self.bounds()
        blocks = []
        for i in self.active_layers(arch.depths):
            op, hidden = arch.operations[i], arch.widths[i]
            if not 0 <= op < len(self.operations) or not low[i, op] <= hidden <= high[i, op]:
                raise ValueError(f"layer {i}: operation {op} with {hidden} hidden channels is not in space {self.name!r}")
            blocks.append(self.row(i, op, hidden))
        fixed = self.fixed
        return Plan(fixed.resolution, fixed.stem, (*fixed.rows, *blocks), fixed.head, fixed.squeeze)

    def middle(self) -> Plan:
        """The network of full depth with the first operation everywhere, at the widths that a search starts with."""
        widths = self.start_widths()[:, 0].tolist()
        return self.plan(Arch((0,) * len(widths), tuple(stage.depth for stage in self.stages), tuple(widths)))

    def arch(self, plan: Plan) -> Arch:
        """The inverse of `plan`; where the ranges of two operations touch, the first that fits.

        Raises:
            ValueError: for a network that is not in the space.
        """
        low, high = self.bounds()
        operations, widths = np.zeros(len(self.layers), int), low[:, 0].copy()
        blocks, depths = list(plan.rows[1:]), []
        for s, stage in enumerate(self.stages):
            depth = 0
            for i in (i for i, layer in enumerate(self.layers) if layer.stage == s):
                fits = [
                    o
                    for o in range(len(self.operations))
                    if blocks and low[i, o] <= blocks[0].hidden <= high[i, o] and self.row(i, o, blocks[0].hidden) == blocks[0]
                ]
                if not fits:
                    break
                operations[i], widths[i], depth = fits[0], blocks.pop(0).hidden, depth + 1
            if depth == 0:
                first = blocks[0] if blocks else "nothing"
                raise ValueError(f"stage {s} of space {self.name!r} (width {stage.width}) cannot begin with {first}")
            depths.append(depth)
        arch = Arch(tuple(operations.tolist()), tuple(depths), tuple(widths.tolist()))
        if blocks or self.plan(arch) != plan:
            raise ValueError(f"{blocks[0] if blocks else 'stem, head or resolution'} is not in space {self.name!r}")
        return arch


def load(path: str | Path) -> Space:
    """Read a search space; nas/spaces/tf_nas_glyphs.yaml shows the form.

    Raises:
        FileNotFoundError: if there is no such file.
        SpaceError: if it is not YAML.
        ParamsError: for missing, unknown or impossible entries; names the file and the key.
    """
    return params.check({"space": read_space(path)}, "space", Space, Path(path))

"""A network as rows: one row per inverted residual block, between a stem and a head.

The form in which TF-NAS (arXiv:2008.05314) and HardCoRe-NAS (arXiv:2102.11646) publish their networks: [channels in,
hidden channels, channels of the squeeze-and-excitation, channels out, kernel, stride, activation].
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

Activation = Literal["ReLU", "ReLU6", "Swish", "HSwish"]
Gate = Literal["Sigmoid", "HSigmoid"]


@dataclass(frozen=True)
class Row:
    """One inverted residual block; fields in the order of the papers' tables.

    Raises:
        ValueError: for sizes that no block can have, or an unknown activation.
    """

    c_in: int
    hidden: int  # channels of the depthwise convolution
    se: int  # channels between the two convolutions of the squeeze-and-excitation; 0: none
    c_out: int
    kernel: int  # of the depthwise convolution, pixels, odd
    stride: int
    act: Activation

    def __post_init__(self) -> None:
        if min(self.c_in, self.hidden, self.c_out, self.kernel, self.stride) < 1 or self.se < 0 or self.kernel % 2 == 0:
            raise ValueError(f"{self}: channels, kernel and stride have to be at least 1, se at least 0, the kernel odd")
        _check(self.act, Activation)

    @property
    def shortcut(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.c_in == self.c_out


@dataclass(frozen=True)
class Stem:
    """The 3x3 convolution at the start.

    Raises:
        ValueError: for an unknown activation.
    """

    width: int  # channels
    stride: int
    act: Activation

    def __post_init__(self) -> None:
        _check(self.act, Activation)


@dataclass(frozen=True)
class Head:
    """1x1 convolution, average pool, and optionally another 1x1 convolution as in MobileNetV3 (arXiv:1905.02244).

    Raises:
        ValueError: for an unknown activation.
    """

    width: int  # channels before the pool
    act: Activation
    mix: int = 0  # channels of the convolution after the pool, which has a bias and no batch norm; 0: none

    def __post_init__(self) -> None:
        _check(self.act, Activation)

    @property
    def features(self) -> int:
        """Channels before the classifier."""
        return self.mix or self.width


@dataclass(frozen=True)
class Squeeze:
    """Activation and gate of all squeeze-and-excitations (arXiv:1709.01507) of a network.

    Raises:
        ValueError: for an unknown activation or gate.
    """

    act: Activation | None  # between the two convolutions; None: that of the block
    gate: Gate

    def __post_init__(self) -> None:
        _check(self.gate, Gate)
        if self.act is not None:
            _check(self.act, Activation)


@dataclass(frozen=True)
class Plan:
    """A whole network except for its number of classes: a value, hashable and comparable.

    Raises:
        ValueError: if the input channels of a row differ from the output channels of the row before.
    """

    resolution: int  # side of the images, pixels
    stem: Stem
    rows: tuple[Row, ...]
    head: Head
    squeeze: Squeeze

    def __post_init__(self) -> None:
        inputs = (self.stem.width, *(row.c_out for row in self.rows))
        for i, (channels, row) in enumerate(zip(inputs, self.rows)):
            if row.c_in != channels:
                raise ValueError(f"row {i} takes {row.c_in} channels, the one before gives {channels}: {row}")

    @property
    def sides(self) -> tuple[int, ...]:
        """(rows + 1,) side of the input of every row and of the head, pixels."""
        sides = [ceil(self.resolution / self.stem.stride)]
        for row in self.rows:
            sides.append(ceil(sides[-1] / row.stride))
        return tuple(sides)

    @property
    def c_last(self) -> int:
        """Input channels of the head."""
        return self.rows[-1].c_out if self.rows else self.stem.width


def _check(name: str, names: object) -> None:
    if name not in get_args(names):
        raise ValueError(f"{name!r} is none of {list(get_args(names))}")

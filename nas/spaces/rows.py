"""A network as rows: each row an inverted residual block, stem and head given.

The form in which TF-NAS (arXiv:2008.05314) and HardCoRe-NAS (arXiv:2102.11646) publish their networks: [channels in,
hidden channels, channels of the squeeze-and-excitation, channels out, kernel, stride, activation].
"""

from dataclasses import dataclass
from math import ceil

ACTIVATIONS = ("ReLU", "ReLU6", "Swish", "HSwish")
GATES = ("Sigmoid", "HSigmoid")


@dataclass(frozen=True)
class Row:
    """One inverted residual block, in the order in which the papers' tables list it.

    Raises:
        ValueError: for sizes that no block can have, or an unknown activation.
    """

    c_in: int
    hidden: int  # channels of the depthwise convolution
    se: int  # channels between the two convolutions of the squeeze-and-excitation; 0: there is none
    c_out: int
    kernel: int  # of the depthwise convolution, pixels, odd
    stride: int
    act: str  # a key of ACTIVATIONS

    def __post_init__(self) -> None:
        if min(self.c_in, self.hidden, self.c_out, self.kernel, self.stride) < 1 or self.se < 0 or self.kernel % 2 == 0:
            raise ValueError(f"{self}: channels, kernel and stride have to be at least 1, se at least 0, the kernel odd")
        _known(self.act, ACTIVATIONS)

    @property
    def shortcut(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.c_in == self.c_out


@dataclass(frozen=True)
class Stem:
    """The 3x3 convolution that a network starts with.

    Raises:
        ValueError: for an unknown activation.
    """

    width: int  # channels
    stride: int
    act: str

    def __post_init__(self) -> None:
        _known(self.act, ACTIVATIONS)


@dataclass(frozen=True)
class Head:
    """1x1 convolution, average pool, and, in MobileNetV3's manner (arXiv:1905.02244), one more 1x1 convolution after it.

    Raises:
        ValueError: for an unknown activation.
    """

    width: int  # channels before the pool
    act: str
    mix: int = 0  # channels of the convolution after the pool, which has a bias and no batch norm; 0: there is none

    def __post_init__(self) -> None:
        _known(self.act, ACTIVATIONS)

    @property
    def features(self) -> int:
        """Channels before the classifier."""
        return self.mix or self.width


@dataclass(frozen=True)
class Squeeze:
    """What the squeeze-and-excitations (arXiv:1709.01507) of a network have in common.

    Raises:
        ValueError: for an unknown activation or gate.
    """

    act: str | None  # between their two convolutions; None: that of the block
    gate: str  # a key of GATES

    def __post_init__(self) -> None:
        _known(self.gate, GATES)
        if self.act is not None:
            _known(self.act, ACTIVATIONS)


@dataclass(frozen=True)
class Plan:
    """A whole network but for its classes: a value, hashable and comparable.

    Raises:
        ValueError: if a row does not take the channels that the one before gives.
    """

    resolution: int  # side of the images, pixels
    stem: Stem
    rows: tuple[Row, ...]
    head: Head
    squeeze: Squeeze

    def __post_init__(self) -> None:
        given = (self.stem.width, *(row.c_out for row in self.rows))
        for i, (channels, row) in enumerate(zip(given, self.rows)):
            if row.c_in != channels:
                raise ValueError(f"row {i} takes {row.c_in} channels, the one before gives {channels}: {row}")

    @property
    def sides(self) -> tuple[int, ...]:
        """(rows + 1,) side of the input of each row and of the head, pixels."""
        found = [ceil(self.resolution / self.stem.stride)]
        for row in self.rows:
            found.append(ceil(found[-1] / row.stride))
        return tuple(found)

    @property
    def c_last(self) -> int:
        """Channels that the head takes."""
        return self.rows[-1].c_out if self.rows else self.stem.width


def _known(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{name!r} is none of {list(names)}")

"""Networks from rows: each row an inverted residual block, stem and head given; multiply-adds and parameters from shapes alone.

The form in which TF-NAS (arXiv:2008.05314) and HardCoRe-NAS (arXiv:2102.11646) publish what they found: [channels in,
hidden channels, channels of the squeeze-and-excitation, channels out, kernel, stride, activation]. The block is that of
MobileNetV2 (arXiv:1801.04381): no expansion where the hidden channels are the input's, a shortcut only where the
shapes on both sides agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.cost.flops import conv_macs
from nas.supernet.layers import BN_EPS, resize

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"ReLU": F.relu, "ReLU6": F.relu6, "Swish": F.silu, "HSwish": F.hardswish}
GATES: dict[str, Callable[..., Tensor]] = {"Sigmoid": torch.sigmoid, "HSigmoid": F.hardsigmoid}


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

    resolution: int  # side of the pictures, pixels
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


class StemLayer(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.conv = _conv(3, stem.width, 3, stem.stride)
        self.bn = _norm(stem.width)
        self.act = ACTIVATIONS[stem.act]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, ceil(H/stride), ceil(W/stride))."""
        return self.act(self.bn(self.conv(images)), inplace=not self.training)


class SqueezeExcite(nn.Module):
    """Global mean, 1x1 convolution to fewer channels, activation, 1x1 convolution back, gate."""

    def __init__(self, channels: int, reduced: int, act: str, gate: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)
        self.act, self.gate = ACTIVATIONS[act], GATES[gate]

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape, each channel scaled by 0..1."""
        return x * self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """The block that a row describes."""

    def __init__(self, row: Row, squeeze: Squeeze) -> None:
        super().__init__()
        self.row, self.act = row, ACTIVATIONS[row.act]
        if row.hidden != row.c_in:
            self.expand = _conv(row.c_in, row.hidden, 1)
            self.expand_bn = _norm(row.hidden)
        self.depthwise = _conv(row.hidden, row.hidden, row.kernel, row.stride, groups=row.hidden)
        self.depthwise_bn = _norm(row.hidden)
        if row.se:
            self.se = SqueezeExcite(row.hidden, row.se, squeeze.act or row.act, squeeze.gate)
        self.project = _conv(row.hidden, row.c_out, 1)
        self.project_bn = _norm(row.c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride))."""
        y, inplace = x, not self.training  # in training the batch norms' results are kept for the gradients
        if self.row.hidden != self.row.c_in:
            y = self.act(self.expand_bn(self.expand(y)), inplace=inplace)
        y = self.act(self.depthwise_bn(self.depthwise(y)), inplace=inplace)
        if self.row.se:
            y = self.se(y)
        y = self.project_bn(self.project(y))
        return x + y if self.row.shortcut else y


class HeadLayer(nn.Module):
    """From the last row's output to what the classifier takes."""

    def __init__(self, c_in: int, head: Head) -> None:
        super().__init__()
        self.conv = _conv(c_in, head.width, 1)
        self.bn = _norm(head.width)
        self.mix = nn.Conv2d(head.width, head.mix, 1) if head.mix else None
        self.act = ACTIVATIONS[head.act]

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, features)."""
        x = self.act(self.bn(self.conv(x)), inplace=not self.training).mean((2, 3), keepdim=True)
        if self.mix is not None:
            x = self.act(self.mix(x))
        return x.flatten(1)


class RowNetwork(nn.Module):
    """A plan as a network. Resizes its input to the plan's resolution; weights from torch's global generator."""

    def __init__(self, plan: Plan, classes: int) -> None:
        super().__init__()
        self.plan, self.resolution = plan, plan.resolution
        self.stem = StemLayer(plan.stem)
        self.blocks = nn.ModuleList(InvertedResidual(row, plan.squeeze) for row in plan.rows)
        self.head = HeadLayer(plan.c_last, plan.head)
        self.dropout = nn.Dropout(0.0)  # training sets its probability
        self.classifier = nn.Linear(plan.head.features, classes)
        self.apply(start_weights)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits."""
        x = self.stem(resize(images, self.resolution))
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(self.head(x)))


def start_weights(module: nn.Module) -> None:
    """He's normal weights for convolutions by the inputs that an output channel reaches (arXiv:1502.01852), small ones for a classifier."""
    if isinstance(module, nn.Conv2d):
        reached = module.kernel_size[0] ** 2 * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / reached) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@dataclass(frozen=True)
class MultiplyAdds:
    """What a picture costs, apart by what papers count and do not."""

    products: int  # multiply-accumulates of convolutions and classifier: half of what torch's FlopCounterMode counts
    biases: int  # additions of the biases: squeeze-and-excitation, the convolution after the pool, classifier
    pool: int  # additions of the average pool before the classifier

    @property
    def total(self) -> int:
        """As TF-NAS counts."""
        return self.products + self.biases + self.pool


def multiply_adds(plan: Plan, classes: int) -> MultiplyAdds:
    """Of one picture; batch norm, activations and the pools of squeeze-and-excitation are not counted."""
    sides = plan.sides
    products = conv_macs(3, plan.stem.width, 3, sides[0])
    products += sum(row_products(row, side) for row, side in zip(plan.rows, sides))
    head = plan.head
    products += conv_macs(plan.c_last, head.width, 1, sides[-1]) + head.width * head.mix + head.features * classes
    biases = sum(row.se + row.hidden for row in plan.rows if row.se) + head.mix + classes
    return MultiplyAdds(products, biases, head.width * sides[-1] ** 2)


def row_products(row: Row, side: int) -> int:
    """Multiply-accumulates of a block on (c_in, side, side) inputs, biases not counted."""
    after = ceil(side / row.stride)
    found = conv_macs(row.c_in, row.hidden, 1, side) if row.hidden != row.c_in else 0
    found += conv_macs(row.hidden, row.hidden, row.kernel, after, groups=row.hidden) + 2 * row.hidden * row.se
    return found + conv_macs(row.hidden, row.c_out, 1, after)


def parameters(plan: Plan, classes: int) -> int:
    """What is learnt: weights, biases, scale and shift of batch norms."""
    head = plan.head
    found = 27 * plan.stem.width + 2 * plan.stem.width + sum(row_parameters(row) for row in plan.rows)
    found += plan.c_last * head.width + 2 * head.width + (head.width + 1) * head.mix
    return found + (head.features + 1) * classes


def row_parameters(row: Row) -> int:
    """What a block learns."""
    found = (row.c_in + 2) * row.hidden if row.hidden != row.c_in else 0
    found += (row.kernel**2 + 2) * row.hidden + (row.hidden + 2) * row.c_out
    return found + (2 * row.hidden * row.se + row.se + row.hidden if row.se else 0)


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


_norm = partial(nn.BatchNorm2d, eps=BN_EPS)


def _known(name: str, names: dict[str, Callable]) -> None:
    if name not in names:
        raise ValueError(f"{name!r} is none of {list(names)}")

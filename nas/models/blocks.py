"""Networks from rows as torch modules.

The block is that of MobileNetV2 (arXiv:1801.04381): no expansion where the hidden channels are the input's, a shortcut only
where the shapes on both sides agree.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.layers import BN_EPS, resize
from nas.spaces.rows import Head, Plan, Row, Squeeze, Stem

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"ReLU": F.relu, "ReLU6": F.relu6, "Swish": F.silu, "HSwish": F.hardswish}
GATES: dict[str, Callable[..., Tensor]] = {"Sigmoid": torch.sigmoid, "HSigmoid": F.hardsigmoid}


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


def _conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


_norm = partial(nn.BatchNorm2d, eps=BN_EPS)

"""Layers, blocks and networks of fixed sizes; a network from rows (`nas.spaces.rows`) for TF-NAS and HardCoRe-NAS.

The block of a row is that of MobileNetV2 (arXiv:1801.04381): no expansion layer where the hidden channels equal the
input channels, a shortcut only where input and output shapes agree.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.layers import BN_EPS, resize
from nas.spaces.rows import Head, Plan, Row, Squeeze, Stem

Device = torch.device | str | None

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"ReLU": F.relu, "ReLU6": F.relu6, "Swish": F.silu, "HSwish": F.hardswish}
GATES: dict[str, Callable[..., Tensor]] = {"Sigmoid": torch.sigmoid, "HSigmoid": F.hardsigmoid}


class _SkipMetaInit:
    """Draws no initial weights on the meta device, where they are about to be replaced."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Conv2d(_SkipMetaInit, nn.Conv2d):
    pass


class BatchNorm2d(_SkipMetaInit, nn.BatchNorm2d):
    pass


class Linear(_SkipMetaInit, nn.Linear):
    pass


def conv(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1, device: Device = None) -> Conv2d:
    """Convolution without bias, padded so that only the stride changes the side."""
    return Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False, device=device)


def batch_norm(channels: int, device: Device = None) -> BatchNorm2d:
    """Batch norm with `BN_EPS`, as in the supernet."""
    return BatchNorm2d(channels, eps=BN_EPS, device=device)


class StemLayer(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.conv = conv(3, stem.width, 3, stem.stride)
        self.bn = batch_norm(stem.width)
        self.act = ACTIVATIONS[stem.act]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, ceil(H/stride), ceil(W/stride))."""
        return self.act(self.bn(self.conv(images)), inplace=not self.training)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation (arXiv:1709.01507): global mean, 1x1 convolution to fewer channels, activation, 1x1 convolution, gate."""

    def __init__(self, channels: int, reduced: int, act: str, gate: str, device: Device = None) -> None:
        """
        Args:
            act: key of `ACTIVATIONS`.
            gate: key of `GATES`.
        """
        super().__init__()
        self.reduce = Conv2d(channels, reduced, 1, device=device)
        self.expand = Conv2d(reduced, channels, 1, device=device)
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
            self.expand = conv(row.c_in, row.hidden)
            self.expand_bn = batch_norm(row.hidden)
        self.depthwise = conv(row.hidden, row.hidden, row.kernel, row.stride, groups=row.hidden)
        self.depthwise_bn = batch_norm(row.hidden)
        if row.se:
            self.se = SqueezeExcite(row.hidden, row.se, squeeze.act or row.act, squeeze.gate)
        self.project = conv(row.hidden, row.c_out)
        self.project_bn = batch_norm(row.c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride))."""
        y, inplace = x, not self.training  # in training autograd needs the outputs of the batch norms
        if self.row.hidden != self.row.c_in:
            y = self.act(self.expand_bn(self.expand(y)), inplace=inplace)
        y = self.act(self.depthwise_bn(self.depthwise(y)), inplace=inplace)
        if self.row.se:
            y = self.se(y)
        y = self.project_bn(self.project(y))
        return x + y if self.row.shortcut else y


class HeadLayer(nn.Module):
    """From the last row's output to the input of the classifier."""

    def __init__(self, c_in: int, head: Head) -> None:
        super().__init__()
        self.conv = conv(c_in, head.width)
        self.bn = batch_norm(head.width)
        self.mix = Conv2d(head.width, head.mix, 1) if head.mix else None
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
        self.apply(init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits."""
        x = self.stem(resize(images, self.resolution))
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(self.head(x)))


def init_weights(module: nn.Module) -> None:
    """Normal weights by fan-out for convolutions (arXiv:1502.01852), of deviation 0.01 for a classifier; biases zero."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)

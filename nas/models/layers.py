"""Layers whose size is an argument of the call: the first channels and the kernel's centre of one shared weight.

AttentiveNAS (arXiv:2011.09011), section 2.1: all sub-networks share the weights of the largest.
Batch norm uses the batch's statistics and keeps no running ones; evaluation extracts a sub-network
and calibrates it (section 4.2). No layer keeps state between calls.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.spaces.mbconv import hidden_width, make_divisible

BN_EPS = 1e-5


def resize(images: Tensor, side: int) -> Tensor:
    """(B, c, H, W) -> (B, c, side, side), bicubic without antialiasing; the images themselves where the side matches."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False)


def pool_shortcut(x: Tensor, stride: int) -> Tensor:
    """(B, c, H, W) -> (B, c, ceil(H/stride), ceil(W/stride)), the average of each window."""
    return F.avg_pool2d(x, 2, 2, padding=x.shape[-1] % 2) if stride == 2 else x


def counted_uniform(keys: Tensor, stream: int, n: int) -> Tensor:
    """(B,) int64 keys -> (B, n) float32 in [0, 1): the same for a key on every device and in every batch.

    splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of key, stream and column.
    """

    def mix(x: Tensor) -> Tensor:
        x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _signed(0xBF58476D1CE4E5B9)
        x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _signed(0x94D049BB133111EB)
        return x ^ ((x >> 31) & 0x1FFFFFFFF)

    columns = torch.arange(1, n + 1, device=keys.device, dtype=torch.int64) * _signed(0x9E3779B97F4A7C15)
    state = mix(keys + _signed(stream * 0x632BE59BD9B4E019))
    return ((mix(state[:, None] + columns) >> 40) & 0xFFFFFF).float() / 2**24


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


@dataclass(frozen=True)
class Regularisation:
    """Dropout before the classifier and drop-connect on identity shortcuts, from one key per image (stateless)."""

    dropout: float  # probability
    drop_connect: float  # probability in the last block; grows linearly with the block's index
    keys: Tensor  # (B,) int64: seed, epoch and image index combined

    def drop(self, features: Tensor) -> Tensor:
        """(B, c) -> (B, c): each feature zero with probability `dropout`, the rest scaled up."""
        if self.dropout == 0:
            return features
        mask = counted_uniform(self.keys, 0, features.shape[1]) >= self.dropout
        return features * mask.to(features.dtype) / (1 - self.dropout)

    def connect(self, branch: Tensor, block: int, blocks: int) -> Tensor:
        """(B, c, H, W) -> the same, the whole branch of an image zero with the block's probability, else scaled up."""
        p = self.drop_connect * block / blocks
        if p == 0:
            return branch
        mask = counted_uniform(self.keys, 1 + block, 1)[:, :, None, None] >= p
        return branch * mask.to(branch.dtype) / (1 - p)


class _Part(torch.autograd.Function):
    """A part of a leaf tensor whose gradient is added to that part of the leaf's `.grad`.

    Autograd's own slicing pads every gradient with zeros to the size of the leaf and adds that, which
    takes a tenth of a training step on the paper's space. Only `.backward()` sees these gradients,
    `torch.autograd.grad` does not.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, where: tuple[slice, ...]) -> Tensor:
        ctx.leaf, ctx.where = weight, where
        return weight[where].contiguous()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, None]:
        leaf = ctx.leaf
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        leaf.grad[ctx.where] += grad
        return None, None


def part(weight: Tensor, *where: slice) -> Tensor:
    """A slice of a shared weight; the weight itself where the slice is all of it."""
    where = tuple(where)
    cut = any((s.start or 0) > 0 or s.stop < n for s, n in zip(where, weight.shape))
    return _Part.apply(weight, where) if cut else weight


class ElasticConv2d(nn.Module):
    """Dense convolution: output channels are an argument, input channels follow from the input."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.stride = stride
        nn.init.kaiming_normal_(self.weight, mode="fan_out")

    def part(self, c_in: int, out: int) -> tuple[Tensor, Tensor | None]:
        """Weight (out, c_in, k, k) and bias (out,) of a sub-network."""
        return part(self.weight, slice(out), slice(c_in)), None if self.bias is None else part(self.bias, slice(out))

    def forward(self, x: Tensor, out: int) -> Tensor:
        """(B, c, H, W) -> (B, out, ceil(H/stride), ceil(W/stride))."""
        weight, bias = self.part(x.shape[1], out)
        return F.conv2d(x, weight, bias, self.stride, padding=self.weight.shape[-1] // 2)


class ElasticDepthwiseConv2d(nn.Module):
    """Depthwise convolution: the kernel side is an argument (the centre of the largest), channels follow from the input."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, kernel))
        self.stride = stride
        nn.init.normal_(self.weight, std=(2 / kernel**2) ** 0.5)  # fan-out of one channel

    def part(self, channels: int, kernel: int) -> Tensor:
        """Weight (channels, 1, kernel, kernel) of a sub-network."""
        cut = (self.weight.shape[-1] - kernel) // 2
        centre = slice(cut, cut + kernel)
        return part(self.weight, slice(channels), slice(1), centre, centre)

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        """(B, c, H, W) -> (B, c, ceil(H/stride), ceil(W/stride))."""
        return F.conv2d(x, self.part(x.shape[1], kernel), None, self.stride, padding=kernel // 2, groups=x.shape[1])


class ElasticBatchNorm2d(nn.Module):
    """Batch norm of the first channels by the batch's statistics; no running ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def part(self, channels: int) -> tuple[Tensor, Tensor]:
        """Weight and bias (channels,) of a sub-network."""
        return part(self.weight, slice(channels)), part(self.bias, slice(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape, mean 0 and variance 1 per channel before the affine part."""
        weight, bias = self.part(x.shape[1])
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=BN_EPS)


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-and-excitation (arXiv:1709.01507): global mean, reduce to a quarter, ReLU, expand, hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = make_divisible(channels // 4)
        self.reduce = ElasticConv2d(channels, reduced, bias=True)
        self.expand = ElasticConv2d(reduced, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape, each channel scaled by 0..1."""
        channels = x.shape[1]
        scale = F.relu(self.reduce(x.mean((2, 3), keepdim=True), make_divisible(channels // 4)))
        return x * F.hardsigmoid(self.expand(scale, channels))


class ElasticMBConv(nn.Module):
    """Inverted residual block (arXiv:1801.04381) with a shortcut around every block, strided ones too.

    The shortcut averages 2 x 2 windows where the stride is 2 and has a 1x1 convolution where the
    channel counts differ.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int, se: bool, shortcut: bool) -> None:
        """Largest sizes; `shortcut` where the channel counts can differ."""
        super().__init__()
        hidden = hidden_width(c_in, expansion)
        self.stride = stride
        self.expand = ElasticConv2d(c_in, hidden) if expansion > 1 else None
        self.expand_bn = ElasticBatchNorm2d(hidden) if expansion > 1 else None
        self.depthwise = ElasticDepthwiseConv2d(hidden, kernel, stride)
        self.depthwise_bn = ElasticBatchNorm2d(hidden)
        self.se = ElasticSqueezeExcite(hidden) if se else None
        self.project = ElasticConv2d(hidden, c_out)
        self.project_bn = ElasticBatchNorm2d(c_out)
        self.shortcut = ElasticConv2d(c_in, c_out) if shortcut else None

    def forward(self, x: Tensor, width: int, kernel: int, expansion: int, connect=None) -> Tensor:
        """(B, c, H, W) -> (B, width, ceil(H/stride), ceil(W/stride)).

        Args:
            connect: drop-connect, applied to the branch where the shortcut is the identity.
        """
        y = x
        if self.expand is not None:
            y = F.silu(self.expand_bn(self.expand(y, hidden_width(x.shape[1], expansion))))
        y = F.silu(self.depthwise_bn(self.depthwise(y, kernel)))
        if self.se is not None:
            y = self.se(y)
        y = self.project_bn(self.project(y, width))
        if connect is not None and self.stride == 1 and x.shape[1] == width:
            y = connect(y)
        short = pool_shortcut(x, self.stride)
        return y + (short if x.shape[1] == width else self.shortcut(short, width))

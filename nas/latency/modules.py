"""Stem and head of an MBConv network as modules with random weights, batch norm folded."""

import torch.nn.functional as F
from torch import Tensor, nn


class StemModule(nn.Module):
    """The first layers of `Network.forward`, folded."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, ceil(H/stride), ceil(W/stride))."""
        return F.silu(self.stem(images), inplace=True)


class HeadModule(nn.Module):
    """The last layers of `Network.forward`, folded."""

    def __init__(self, c_in: int, expansion: int, width: int, classes: int) -> None:
        super().__init__()
        self.head_expand = nn.Conv2d(c_in, expansion * c_in, 1)
        self.head_mix = nn.Conv2d(expansion * c_in, width, 1, bias=False)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, classes)."""
        x = F.silu(self.head_expand(x), inplace=True)
        return self.classifier(F.silu(self.head_mix(x.mean((2, 3), keepdim=True))).flatten(1))

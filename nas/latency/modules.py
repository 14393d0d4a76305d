"""The pieces of a network as torch modules with random weights, batch norm folded: what a sub-network is at run time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.cost.latency import Block, Piece, Stem
from nas.models.extract import MBConv, Network
from nas.models.fuse import fold
from nas.spaces.mbconv import Arch, SearchSpace


class StemModule(nn.Module):
    """The first lines of `Network.forward`, folded."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width, ceil(H/stride), ceil(W/stride))."""
        return F.silu(self.stem(images), inplace=True)


class HeadModule(nn.Module):
    """The last lines of `Network.forward`, folded."""

    def __init__(self, c_in: int, expansion: int, width: int, classes: int) -> None:
        super().__init__()
        self.head_expand = nn.Conv2d(c_in, expansion * c_in, 1)
        self.head_mix = nn.Conv2d(expansion * c_in, width, 1, bias=False)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, classes)."""
        x = F.silu(self.head_expand(x), inplace=True)
        return self.classifier(F.silu(self.head_mix(x.mean((2, 3), keepdim=True))).flatten(1))


@torch.no_grad()
def module(space: SearchSpace, piece: Piece, classes: int) -> nn.Module:
    """A piece of any architecture of the space, in eval mode; weights from torch's global generator."""
    if isinstance(piece, Stem):
        found = StemModule(piece.width, space.stem_stride)
    elif isinstance(piece, Block):
        stage = next(s for s in space.stages if s.name == piece.stage)
        stride = stage.stride if piece.first else 1
        found = fold(MBConv(piece.c_in, piece.width, piece.kernel, piece.expansion, stride, stage.se).eval())
    else:
        found = HeadModule(piece.c_in, space.head_expansion, piece.width, classes)
    return found.eval()


@torch.no_grad()
def network(space: SearchSpace, arch: Arch, classes: int) -> nn.Module:
    """A whole architecture, folded, in eval mode; weights from torch's global generator."""
    return fold(Network(space, arch, classes).eval())

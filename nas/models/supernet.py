"""The supernet: all sub-networks of a search space in one set of weights, the architecture an argument of the call.

AttentiveNAS (arXiv:2011.09011), sections 2.1 and 4.1; details that the paper leaves open are
those of the published weights, which `nas.models.published` imports. A block's drop-connect
probability grows with its index; it acts in the last two stages, on identity shortcuts.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticMBConv, Regularisation, part, resize
from nas.runtime import seeding
from nas.spaces.mbconv import Arch, SearchSpace

DROP_CONNECT_STAGES = 2  # the last ones


class ElasticLinear(nn.Module):
    """Classifier on the first features."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.normal_(self.weight, std=0.01)

    def part(self, features: int) -> tuple[Tensor, Tensor]:
        """Weight (classes, features) and bias (classes,) of a sub-network."""
        return part(self.weight, slice(len(self.weight)), slice(features)), self.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, c) -> (B, classes)."""
        return F.linear(x, *self.part(x.shape[1]))


class Supernet(nn.Module):
    """Weights of the largest architecture; `supernet(images, arch)` runs any other on its part of them."""

    def __init__(self, space: SearchSpace, classes: int, zero_init: bool = True) -> None:
        """
        Args:
            zero_init: every block starts as its shortcut (last batch norm zero), as in the paper;
                trainings of a few hundred steps converge faster without.

        Raises:
            ValueError: for fewer than 2 classes.
        """
        super().__init__()
        if classes < 2:
            raise ValueError(f"{classes} classes: a classifier needs at least 2")
        self.space = space
        self.classes = classes
        stem = space.stem_widths[-1]
        self.stem = ElasticConv2d(3, stem, kernel=3, stride=space.stem_stride)
        self.stem_bn = ElasticBatchNorm2d(stem)
        self.stages = nn.ModuleList()
        widths_before, c_in = space.stem_widths, stem
        for stage in space.stages:
            width = stage.widths[-1]
            blocks = nn.ModuleList()
            for i in range(stage.depths[-1]):
                blocks.append(
                    ElasticMBConv(
                        c_in if i == 0 else width,
                        width,
                        kernel=stage.kernels[-1],
                        expansion=stage.expansions[-1],
                        stride=stage.stride if i == 0 else 1,
                        se=stage.se,
                        shortcut=i == 0 and any(a != b for a in widths_before for b in stage.widths),
                    )
                )
            self.stages.append(blocks)
            widths_before, c_in = stage.widths, width
        self.head_expand = ElasticConv2d(c_in, c_in * space.head_expansion)
        self.head_bn = ElasticBatchNorm2d(c_in * space.head_expansion)
        self.head_mix = ElasticConv2d(c_in * space.head_expansion, space.head_widths[-1])
        self.classifier = ElasticLinear(space.head_widths[-1], classes)
        if zero_init:
            for block in (b for blocks in self.stages for b in blocks):
                nn.init.zeros_(block.project_bn.weight)

    def forward(self, images: Tensor, arch: Arch, regularise: Regularisation | None = None) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits.

        Args:
            images: any side; resized to the architecture's resolution.
            arch: an architecture of the space; not checked, see `SearchSpace.check`.
            regularise: dropout and drop-connect, for the largest network in training.
        """
        x = resize(images, arch.resolution)
        x = F.silu(self.stem_bn(self.stem(x, arch.stem)))
        block, blocks = 0, sum(s.depth for s in arch.stages)
        for i, (modules, stage) in enumerate(zip(self.stages, arch.stages)):
            dropping = regularise is not None and i >= len(arch.stages) - DROP_CONNECT_STAGES
            for module in modules[: stage.depth]:
                connect = partial(regularise.connect, block=block, blocks=blocks) if dropping else None
                x = module(x, stage.width, stage.kernel, stage.expansion, connect)
                block += 1
        x = F.silu(self.head_bn(self.head_expand(x, x.shape[1] * self.space.head_expansion)))
        x = F.silu(self.head_mix(x.mean((2, 3), keepdim=True), arch.head)).flatten(1)
        return self.classifier(x if regularise is None else regularise.drop(x))


def new_supernet(space: SearchSpace, classes: int, seed: int, zero_init: bool = True) -> Supernet:
    """A supernet with weights drawn from the seed; torch's global random state stays as it was."""
    with seeding.torch_seed(seed, "weights"):
        return Supernet(space, classes, zero_init)

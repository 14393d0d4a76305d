"""The one-shot model of HardCoRe-NAS: every network of the space at once, a network of its own for every image of a batch.

HardCoRe-NAS (arXiv:2102.11646), sections 3.1 and 3.3, Appendices B and C. In a block the expansion is computed once, at the
largest ratio, and a smaller one takes its first channels; each kernel has a depthwise convolution and batch norm of its own;
squeeze-and-excitation and projection are shared, again by their first channels; each pair of expansion and
squeeze-and-excitation has a batch norm of its own after the projection. Which networks a batch takes is an argument of the call.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import ACTIVATIONS, GATES, HeadLayer, InvertedResidual, RowNetwork, StemLayer, init_weights
from nas.models.layers import BN_EPS, resize
from nas.spaces.hardcore_nas import SQUEEZE, Arch, Configuration, Space
from nas.spaces.mbconv import make_divisible


@dataclass(frozen=True, eq=False)
class Paths:
    """A network for each image."""

    depths: Tensor  # (B, stages) int64, blocks that run
    configurations: Tensor  # (B, stages, blocks) int64, by number; any number where a block does not run

    @classmethod
    def of(cls, archs: Sequence[Arch], blocks: int) -> "Paths":
        """Those of architectures of a space whose deepest stage has so many blocks."""
        depths = torch.tensor([[len(stage) for stage in arch] for arch in archs])
        return cls(depths, torch.tensor([[(*stage, *[0] * (blocks - len(stage))) for stage in arch] for arch in archs]))


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-and-excitation on the first channels, through the first of its reduced ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, make_divisible(channels / 4), 1)
        self.expand = nn.Conv2d(make_divisible(channels / 4), channels, 1)
        self.act, self.gate = ACTIVATIONS[SQUEEZE.act], GATES[SQUEEZE.gate]

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape, each channel scaled by 0..1."""
        c, reduced = x.shape[1], make_divisible(x.shape[1] / 4)
        y = self.act(F.conv2d(x.mean((2, 3), keepdim=True), self.reduce.weight[:reduced, :c], self.reduce.bias[:reduced]))
        return x * self.gate(F.conv2d(y, self.expand.weight[:c, :reduced], self.expand.bias[:c]))


class ElasticMBInvRes(nn.Module):
    """A block in all its configurations."""

    def __init__(self, c_in: int, c_out: int, stride: int, act: str, configurations: Sequence[Configuration]) -> None:
        super().__init__()
        self.c_in, self.shortcut, self.act = c_in, stride == 1 and c_in == c_out, ACTIVATIONS[act]
        self.configurations = tuple(configurations)
        hidden = c_in * max(c.expansion for c in configurations)
        self.expand = nn.Conv2d(c_in, hidden, 1, bias=False)
        self.expand_bn = _norm(hidden)
        kernels = sorted({c.kernel for c in configurations})
        self.depthwise = nn.ModuleDict(
            {str(k): nn.Conv2d(hidden, hidden, k, stride, padding=k // 2, groups=hidden, bias=False) for k in kernels}
        )
        self.depthwise_bn = nn.ModuleDict({str(k): _norm(hidden) for k in kernels})
        self.se = ElasticSqueezeExcite(hidden) if any(c.se for c in configurations) else None
        self.project = nn.Conv2d(hidden, c_out, 1, bias=False)
        self.project_bn = nn.ModuleDict({tail_name(c.expansion, c.se): _norm(c_out) for c in configurations})
        self.tails: dict[tuple[int, bool], list[int]] = {}  # configurations by what comes after the kernel, in the order of kernels
        for number, c in sorted(enumerate(configurations), key=lambda one: one[1].kernel):
            self.tails.setdefault((c.expansion, c.se), []).append(number)

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride)): each image through its own configuration.

        Args:
            chosen: (B,) int64, numbers of configurations.
        """
        kinds = [self.configurations[c] for c in chosen.tolist()]
        wide = grouped(self._expanded(x), [c.kernel for c in kinds], self._filtered)
        y = grouped(wide, [(c.expansion, c.se) for c in kinds], lambda part, tail: self._projected(part, *tail))
        return x + y if self.shortcut else y

    def mixed(self, x: Tensor, z: Tensor) -> Tensor:
        """As `forward`, but all configurations are computed, and summed with the weights z: (B, configurations).

        What the kernels give goes through the projections as one batch: fewer, larger operations.
        """
        hidden = self._expanded(x)
        wide = torch.cat([self._filtered(hidden, int(kernel)) for kernel in self.depthwise])
        by_tail = z[:, [number for numbers in self.tails.values() for number in numbers]].view(len(x), len(self.tails), -1)
        weights = by_tail.permute(1, 2, 0).reshape(len(self.tails), -1, 1, 1, 1)
        parts = sum(weight * self._projected(wide, *tail) for weight, tail in zip(weights, self.tails))
        y = parts.view(len(self.depthwise), len(x), *parts.shape[1:]).sum(0)
        return x + y if self.shortcut else y

    def _expanded(self, x: Tensor) -> Tensor:
        return self.act(self.expand_bn(self.expand(x)))

    def _filtered(self, hidden: Tensor, kernel: int) -> Tensor:
        return self.act(self.depthwise_bn[str(kernel)](self.depthwise[str(kernel)](hidden)))

    def _projected(self, wide: Tensor, expansion: int, se: bool) -> Tensor:
        channels = expansion * self.c_in
        y = wide[:, :channels]
        if se:
            y = self.se(y)
        return self.project_bn[tail_name(expansion, se)](F.conv2d(y, self.project.weight[:, :channels]))


class OneShot(nn.Module):
    """All networks of a space in one. Weights from torch's global generator."""

    def __init__(self, space: Space, classes: int) -> None:
        super().__init__()
        plan = space.plan(space.largest())
        self.space, self.classes = space, classes
        self.stem = StemLayer(plan.stem)
        self.fixed = InvertedResidual(plan.rows[0], plan.squeeze)
        self.stages = nn.ModuleList()
        for s, stage in enumerate(space.stages):
            rows = [space.row(s, b, 0) for b in range(stage.depths[-1])]
            self.stages.append(nn.ModuleList(ElasticMBInvRes(r.c_in, r.c_out, r.stride, r.act, space.configurations) for r in rows))
        self.head = HeadLayer(plan.c_last, plan.head)
        self.dropout = nn.Dropout(0.0)  # training sets its probability
        self.classifier = nn.Linear(plan.head.features, classes)
        self.apply(init_weights)

    def forward(self, images: Tensor, paths: Paths) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits, each image by its own network."""
        return self.classify(self.features(images, paths)[-1])

    def features(self, images: Tensor, paths: Paths) -> list[Tensor]:
        """(B, 3, H, W) normalised images -> the output of each stage, (B, width, H', W').

        A block runs on the images whose path has it.
        """
        x, found = self._before(images), []
        for s, blocks in enumerate(self.stages):
            for b, block in enumerate(blocks):
                at = (paths.depths[:, s] > b).nonzero()[:, 0]
                if len(at) == len(x):
                    x = block(x, paths.configurations[:, s, b])
                elif len(at):
                    x = x.index_copy(0, at, block(x[at], paths.configurations[at, s, b]))
            found.append(x)
        return found

    def classify(self, features: Tensor) -> Tensor:
        """(B, width, H', W') output of the last stage -> (B, classes) logits."""
        return self.classifier(self.dropout(self.head(features)))

    def mixed(self, images: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits; everything is computed, and summed with the weights of the choices.

        One-hot weights give what `forward` gives, and gradients by the choices that were not made.

        Args:
            alpha: (B, stages, blocks, configurations).
            beta: (B, stages, blocks), of depths 1, 2, ...
        """
        x = self._before(images)
        for s, blocks in enumerate(self.stages):
            outputs = []
            for b, block in enumerate(blocks):
                x = block.mixed(x, alpha[:, s, b])
                outputs.append(beta[:, s, b].view(-1, 1, 1, 1) * x)
            x = sum(outputs)
        return self.classify(x)

    def _before(self, images: Tensor) -> Tensor:
        return self.fixed(self.stem(resize(images, self.space.resolution)))


def grouped(x: Tensor, keys: Sequence[Hashable], function: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """function(those of x that have a key, the key) for each key, put together in the order of x."""
    places: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        places.setdefault(key, []).append(i)
    if len(places) == 1:
        return function(x, keys[0])
    parts = torch.cat([function(x[at], key) for key, at in places.items()])
    return parts[torch.tensor([i for at in places.values() for i in at], device=x.device).argsort()]


def tail_name(expansion: int, se: bool) -> str:
    """Of the batch norm after the projection."""
    return f"{expansion}_se" if se else f"{expansion}"


@torch.no_grad()
def extract(model: OneShot, arch: Arch) -> RowNetwork:
    """A network of the model by itself, with copies of its part of the weights and of the batch norms' statistics.

    Raises:
        ValueError: if the architecture is not in the model's space.
    """
    network = RowNetwork(model.space.plan(arch), model.classes).to(model.classifier.weight)
    blocks = [model.fixed]
    for stage, chosen in zip(model.stages, arch):
        blocks += [block_of(block, block.configurations[c]) for block, c in zip(stage, chosen)]
    for mine, theirs in ((network.stem, model.stem), (network.head, model.head), (network.classifier, model.classifier)):
        mine.load_state_dict(theirs.state_dict())
    for mine, theirs in zip(network.blocks, blocks):
        mine.load_state_dict(theirs if isinstance(theirs, dict) else theirs.state_dict())
    return network.train(model.training)


def block_of(block: ElasticMBInvRes, chosen: Configuration) -> dict[str, Tensor]:
    """The weights of one configuration, named as those of an `InvertedResidual`."""
    hidden = chosen.expansion * block.c_in
    kernel = str(chosen.kernel)
    parts = {
        "expand.weight": block.expand.weight[:hidden],
        **_named("expand_bn", block.expand_bn, hidden),
        "depthwise.weight": block.depthwise[kernel].weight[:hidden],
        **_named("depthwise_bn", block.depthwise_bn[kernel], hidden),
        "project.weight": block.project.weight[:, :hidden],
        **_named("project_bn", block.project_bn[tail_name(chosen.expansion, chosen.se)], block.project.out_channels),
    }
    if chosen.se:
        reduced = make_divisible(hidden / 4)
        parts |= {"se.reduce.weight": block.se.reduce.weight[:reduced, :hidden], "se.reduce.bias": block.se.reduce.bias[:reduced]}
        parts |= {"se.expand.weight": block.se.expand.weight[:hidden, :reduced], "se.expand.bias": block.se.expand.bias[:hidden]}
    return parts


def _named(name: str, norm: nn.BatchNorm2d, channels: int) -> dict[str, Tensor]:
    return {f"{name}.{k}": v if v.dim() == 0 else v[:channels] for k, v in norm.state_dict().items()}


@torch.no_grad()
def sort_channels(model: OneShot, importance: Mapping[str, Tensor]) -> None:
    """Bring the channels inside every block into falling order of importance, so that the first ones are the best to keep.

    The largest network computes what it did.

    Args:
        importance: by name of a parameter of the model, its shape, e.g. |weight * gradient| (section 3.3); what is
            missing counts as 0. A channel's is the sum over the rows of weights that make it.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}

    def order(weight: nn.Parameter) -> Tensor:
        found = importance.get(names[weight], torch.zeros_like(weight))
        return found.flatten(1).sum(1).argsort(descending=True, stable=True)

    for block in (block for stage in model.stages for block in stage):
        hidden = order(block.expand.weight)
        _permute(hidden, block.expand.weight, *_per_channel(block.expand_bn))
        for kernel, conv in block.depthwise.items():
            _permute(hidden, conv.weight, *_per_channel(block.depthwise_bn[kernel]))
        block.project.weight.copy_(block.project.weight[:, hidden])
        if block.se is not None:
            reduced = order(block.se.reduce.weight)
            _permute(reduced, block.se.reduce.weight, block.se.reduce.bias)
            block.se.reduce.weight.copy_(block.se.reduce.weight[:, hidden])
            _permute(hidden, block.se.expand.weight, block.se.expand.bias)
            block.se.expand.weight.copy_(block.se.expand.weight[:, reduced])


def _permute(order: Tensor, *tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.copy_(tensor[order])


def _per_channel(norm: nn.BatchNorm2d) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


_norm = partial(nn.BatchNorm2d, eps=BN_EPS)

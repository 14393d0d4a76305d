"""The one-shot model of HardCoRe-NAS: all architectures of a space in one set of weights, one architecture per image.

HardCoRe-NAS (arXiv:2102.11646), sections 3.1 and 3.3, Appendices B and C. A block computes the expansion once, at the
largest ratio; smaller ratios use its first channels. Every kernel size has a separate depthwise convolution and batch norm.
Squeeze-and-excitation and projection are shared, again by their first channels; every pair of expansion and
squeeze-and-excitation has a separate batch norm after the projection. The architectures of a batch are an argument of the call.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import (
    ACTIVATIONS,
    HeadLayer,
    InvertedResidual,
    RowNetwork,
    SqueezeExcite,
    StemLayer,
    batch_norm,
    conv,
    init_weights,
)
from nas.models.layers import resize
from nas.spaces.hardcore_nas import SQUEEZE, Arch, Configuration, Space
from nas.spaces.mbconv import make_divisible


@dataclass(frozen=True, eq=False)
class Paths:
    """One architecture per image."""

    depths: Tensor  # (B, stages) int64
    configurations: Tensor  # (B, stages, blocks) int64 indices; arbitrary for blocks beyond the depth

    @classmethod
    def of(cls, archs: Sequence[Arch], blocks: int) -> "Paths":
        """Paths of architectures.

        Args:
            blocks: number of blocks of the space's deepest stage.
        """
        depths = torch.tensor([[len(stage) for stage in arch] for arch in archs])
        return cls(depths, torch.tensor([[(*stage, *[0] * (blocks - len(stage))) for stage in arch] for arch in archs]))


class ElasticSqueezeExcite(SqueezeExcite):
    """Squeeze-and-excitation on the first channels, through the first reduced ones."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, make_divisible(channels / 4), SQUEEZE.act, SQUEEZE.gate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape, each channel scaled by 0..1."""
        c, reduced = x.shape[1], make_divisible(x.shape[1] / 4)
        y = self.act(F.conv2d(x.mean((2, 3), keepdim=True), self.reduce.weight[:reduced, :c], self.reduce.bias[:reduced]))
        return x * self.gate(F.conv2d(y, self.expand.weight[:c, :reduced], self.expand.bias[:c]))


class ElasticMBInvRes(nn.Module):
    """A block in all of its configurations."""

    def __init__(self, c_in: int, c_out: int, stride: int, act: str, configurations: Sequence[Configuration]) -> None:
        super().__init__()
        self.c_in, self.shortcut, self.act = c_in, stride == 1 and c_in == c_out, ACTIVATIONS[act]
        self.configurations = tuple(configurations)
        hidden = c_in * max(c.expansion for c in configurations)
        self.expand = conv(c_in, hidden)
        self.expand_bn = batch_norm(hidden)
        kernels = sorted({c.kernel for c in configurations})
        self.depthwise = nn.ModuleDict({str(k): conv(hidden, hidden, k, stride, groups=hidden) for k in kernels})
        self.depthwise_bn = nn.ModuleDict({str(k): batch_norm(hidden) for k in kernels})
        self.se = ElasticSqueezeExcite(hidden) if any(c.se for c in configurations) else None
        self.project = conv(hidden, c_out)
        self.project_bn = nn.ModuleDict({tail_name(c.expansion, c.se): batch_norm(c_out) for c in configurations})
        self.tails: dict[tuple[int, bool], list[int]] = {}  # (expansion, se) -> indices of configurations by kernel
        for index, c in sorted(enumerate(configurations), key=lambda pair: pair[1].kernel):
            self.tails.setdefault((c.expansion, c.se), []).append(index)

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride)), one configuration per image.

        Args:
            indices: (B,) int64 configurations.
        """
        configurations = [self.configurations[c] for c in indices.tolist()]
        hidden = apply_by_key(self._expand(x), [c.kernel for c in configurations], self._filter)
        tails = [(c.expansion, c.se) for c in configurations]
        y = apply_by_key(hidden, tails, lambda part, tail: self._project(part, *tail))
        return x + y if self.shortcut else y

    def mixed(self, x: Tensor, z: Tensor) -> Tensor:
        """As `forward`, for the sum of all configurations weighted by z: (B, configurations).

        The outputs of all kernels go through the projections as one batch: fewer, larger operations.
        """
        expanded = self._expand(x)
        hidden = torch.cat([self._filter(expanded, int(kernel)) for kernel in self.depthwise])
        by_tail = z[:, [index for indices in self.tails.values() for index in indices]].view(len(x), len(self.tails), -1)
        weights = by_tail.permute(1, 2, 0).reshape(len(self.tails), -1, 1, 1, 1)
        parts = sum(weight * self._project(hidden, *tail) for weight, tail in zip(weights, self.tails))
        y = parts.view(len(self.depthwise), len(x), *parts.shape[1:]).sum(0)
        return x + y if self.shortcut else y

    def _expand(self, x: Tensor) -> Tensor:
        return self.act(self.expand_bn(self.expand(x)))

    def _filter(self, hidden: Tensor, kernel: int) -> Tensor:
        return self.act(self.depthwise_bn[str(kernel)](self.depthwise[str(kernel)](hidden)))

    def _project(self, hidden: Tensor, expansion: int, se: bool) -> Tensor:
        channels = expansion * self.c_in
        y = hidden[:, :channels]
        if se:
            y = self.se(y)
        return self.project_bn[tail_name(expansion, se)](F.conv2d(y, self.project.weight[:, :channels]))


class OneShot(nn.Module):
    """All architectures of a space in one set of weights, which come from torch's global generator."""

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
        """(B, 3, H, W) normalised images -> (B, classes) logits, one architecture per image."""
        return self.classify(self.features(images, paths)[-1])

    def features(self, images: Tensor, paths: Paths) -> list[Tensor]:
        """(B, 3, H, W) normalised images -> the output of each stage, (B, width, H', W').

        A block runs on the images whose depth includes it.
        """
        x, outputs = self._first_layers(images), []
        for s, blocks in enumerate(self.stages):
            for b, block in enumerate(blocks):
                at = (paths.depths[:, s] > b).nonzero()[:, 0]
                if len(at) == len(x):
                    x = block(x, paths.configurations[:, s, b])
                elif len(at):
                    x = x.index_copy(0, at, block(x[at], paths.configurations[at, s, b]))
            outputs.append(x)
        return outputs

    def classify(self, features: Tensor) -> Tensor:
        """(B, width, H', W') output of the last stage -> (B, classes) logits."""
        return self.classifier(self.dropout(self.head(features)))

    def mixed(self, images: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits of the sum of all choices weighted by alpha and beta.

        One-hot weights give the output of `forward`, and gradients by all other choices.

        Args:
            alpha: (B, stages, blocks, configurations).
            beta: (B, stages, blocks), of depths 1, 2, ...
        """
        x = self._first_layers(images)
        for s, blocks in enumerate(self.stages):
            outputs = []
            for b, block in enumerate(blocks):
                x = block.mixed(x, alpha[:, s, b])
                outputs.append(beta[:, s, b].view(-1, 1, 1, 1) * x)
            x = sum(outputs)
        return self.classify(x)

    def _first_layers(self, images: Tensor) -> Tensor:
        return self.fixed(self.stem(resize(images, self.space.resolution)))


def apply_by_key(x: Tensor, keys: Sequence[Hashable], function: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """`function(rows of x with a key, key)` for all keys, concatenated in the order of x.

    Args:
        x: (B, ...).
        keys: (B,)
    """
    rows: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        rows.setdefault(key, []).append(i)
    if len(rows) == 1:
        return function(x, keys[0])
    parts = torch.cat([function(x[at], key) for key, at in rows.items()])
    return parts[torch.tensor([i for at in rows.values() for i in at], device=x.device).argsort()]


def tail_name(expansion: int, se: bool) -> str:
    """Name of the batch norm after the projection."""
    return f"{expansion}_se" if se else f"{expansion}"


@torch.no_grad()
def extract(model: OneShot, arch: Arch) -> RowNetwork:
    """An architecture as a plain network, with copies of its weights and of the batch norms' statistics.

    Raises:
        ValueError: if the architecture is not in the model's space.
    """
    network = RowNetwork(model.space.plan(arch), model.classes).to(model.classifier.weight)
    blocks = [model.fixed]
    for modules, stage in zip(model.stages, arch):
        blocks += [block_weights(block, block.configurations[c]) for block, c in zip(modules, stage)]
    for target, source in ((network.stem, model.stem), (network.head, model.head), (network.classifier, model.classifier)):
        target.load_state_dict(source.state_dict())
    for target, source in zip(network.blocks, blocks):
        target.load_state_dict(source if isinstance(source, dict) else source.state_dict())
    return network.train(model.training)


def block_weights(block: ElasticMBInvRes, configuration: Configuration) -> dict[str, Tensor]:
    """The weights of one configuration, named as those of an `InvertedResidual`."""
    hidden = configuration.expansion * block.c_in
    kernel, tail = str(configuration.kernel), tail_name(configuration.expansion, configuration.se)
    parts = {
        "expand.weight": block.expand.weight[:hidden],
        **_batch_norm_state("expand_bn", block.expand_bn, hidden),
        "depthwise.weight": block.depthwise[kernel].weight[:hidden],
        **_batch_norm_state("depthwise_bn", block.depthwise_bn[kernel], hidden),
        "project.weight": block.project.weight[:, :hidden],
        **_batch_norm_state("project_bn", block.project_bn[tail], block.project.out_channels),
    }
    if configuration.se:
        reduced = make_divisible(hidden / 4)
        parts |= {"se.reduce.weight": block.se.reduce.weight[:reduced, :hidden], "se.reduce.bias": block.se.reduce.bias[:reduced]}
        parts |= {"se.expand.weight": block.se.expand.weight[:hidden, :reduced], "se.expand.bias": block.se.expand.bias[:hidden]}
    return parts


def _batch_norm_state(name: str, norm: nn.BatchNorm2d, channels: int) -> dict[str, Tensor]:
    return {f"{name}.{k}": v if v.dim() == 0 else v[:channels] for k, v in norm.state_dict().items()}


@torch.no_grad()
def sort_channels(model: OneShot, importance: Mapping[str, Tensor]) -> None:
    """Sort the hidden channels of every block by decreasing importance, in place; the largest network computes the same.

    Args:
        importance: parameter name -> importance of every weight, e.g. |weight * gradient| (section 3.3); missing ones
            count as 0. A channel's importance is the sum over the weights that compute it.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}

    def order(weight: nn.Parameter) -> Tensor:
        scores = importance.get(names[weight], torch.zeros_like(weight))
        return scores.flatten(1).sum(1).argsort(descending=True, stable=True)

    for block in (block for stage in model.stages for block in stage):
        hidden = order(block.expand.weight)
        _permute(hidden, block.expand.weight, *_per_channel(block.expand_bn))
        for kernel, depthwise in block.depthwise.items():
            _permute(hidden, depthwise.weight, *_per_channel(block.depthwise_bn[kernel]))
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

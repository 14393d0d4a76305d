"""TF-NAS's supernet: every operation of every layer has separate weights; its active channels are an argument of the call.

TF-NAS (arXiv:2008.05314), sections 3.2 to 3.4. A stage's output is the sum of its layers' outputs, weighted by the
sinks; there is no skip operation. An operation has weights for its most hidden channels; a narrower one runs on those
with the largest depthwise weights. Batch norm has no affine part and uses the statistics of the batch.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.differentiable.tf_nas.architecture import stage_slices
from nas.models.blocks import ACTIVATIONS, GATES, HeadLayer, InvertedResidual, RowNetwork, StemLayer, init_weights
from nas.models.layers import BN_EPS, resize
from nas.spaces.rows import Row, Squeeze
from nas.spaces.tf_nas import Arch, Space

HIDDEN_AXIS = {
    "expand": 0,
    "depthwise": 0,
    "reduce": 1,
    "restore": 0,
    "restore_bias": 0,
    "project": 1,
}  # parameter -> axis of the hidden channels

Channels = Sequence[Sequence[Tensor]]  # (layers)(operations) int64 indices of active hidden channels, ascending


class ElasticOperation(nn.Module):
    """An inverted residual block that runs on some of its hidden channels."""

    def __init__(self, row: Row, squeeze: Squeeze) -> None:
        """
        Args:
            row: the block with the most hidden channels.
        """
        super().__init__()
        self.row, self.act, self.gate = row, ACTIVATIONS[row.act], GATES[squeeze.gate]
        self.se_act = ACTIVATIONS[squeeze.act or row.act]
        block = InvertedResidual(row, squeeze).apply(init_weights)
        self.expand, self.depthwise, self.project = block.expand.weight, block.depthwise.weight, block.project.weight
        if row.se:
            self.reduce, self.reduce_bias = block.se.reduce.weight, block.se.reduce.bias
            self.restore, self.restore_bias = block.se.expand.weight, block.se.expand.bias

    def active_weights(self, channels: Tensor) -> dict[str, Tensor]:
        """Weights of the active channels by parameter name."""
        return {
            name: p.index_select(HIDDEN_AXIS[name], channels) if name in HIDDEN_AXIS else p
            for name, p in self.named_parameters(recurse=False)
        }

    def forward(self, x: Tensor, channels: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride)).

        Args:
            channels: (n,) int64 active hidden channels.
        """
        w, row = self.active_weights(channels), self.row
        y = self.act(_batch_norm(F.conv2d(x, w["expand"])))
        y = self.act(_batch_norm(F.conv2d(y, w["depthwise"], None, row.stride, row.kernel // 2, groups=len(channels))))
        if row.se:
            scale = self.se_act(F.conv2d(y.mean((2, 3), keepdim=True), w["reduce"], w["reduce_bias"]))
            y = y * self.gate(F.conv2d(scale, w["restore"], w["restore_bias"]))
        y = _batch_norm(F.conv2d(y, w["project"]))
        return x + y if row.shortcut else y


class Supernet(nn.Module):
    """All architectures of a space in one set of weights, which come from torch's global generator."""

    def __init__(self, space: Space, classes: int) -> None:
        super().__init__()
        self.space, self.classes = space, classes
        fixed, (_, high) = space.fixed, space.bounds()
        self.stem = _without_affine(StemLayer(fixed.stem))
        self.block = _without_affine(InvertedResidual(fixed.rows[0], fixed.squeeze))
        self.layers = nn.ModuleList(
            nn.ModuleList(ElasticOperation(space.row(i, o, int(high[i, o])), fixed.squeeze) for o in range(len(space.operations)))
            for i in range(len(space.layers))
        )
        self.head = _without_affine(HeadLayer(space.layers[-1].c_out, fixed.head))
        self.classifier = nn.Linear(fixed.head.features, classes)
        for part in (self.stem, self.block, self.head, self.classifier):
            part.apply(init_weights)

    def path(self, images: Tensor, operations: Sequence[int], sinks: Sequence[Tensor], channels: Channels) -> Tensor:
        """One operation per layer: (B, 3, H, W) normalised images -> (B, classes) logits.

        Args:
            operations: (layers,) index of the operation.
            sinks: per stage (depth,) weights of the layers where it may stop.
            channels: active channels of every operation.
        """
        return self._run(images, lambda i, x: self.layers[i][operations[i]](x, channels[i][operations[i]]), sinks)

    def mixture(self, images: Tensor, weights: Tensor, sinks: Sequence[Tensor], channels: Channels) -> Tensor:
        """Weighted sum of all operations of every layer: (B, 3, H, W) normalised images -> (B, classes) logits.

        Args:
            weights: (layers, operations)
        """

        def mixed(i: int, x: Tensor) -> Tensor:
            return sum(w * operation(x, active) for w, operation, active in zip(weights[i], self.layers[i], channels[i]))

        return self._run(images, mixed, sinks)

    def _run(self, images: Tensor, layer: Callable[[int, Tensor], Tensor], sinks: Sequence[Tensor]) -> Tensor:
        x = self.block(self.stem(resize(images, self.space.resolution)))
        for layers, sink in zip(stage_slices(self.space), sinks, strict=True):
            outputs = []
            for i in range(layers.start, layers.stop):
                x = layer(i, x)
                outputs.append(x)
            x = sum(weight * y for weight, y in zip(sink, outputs))
        return self.classifier(self.head(x))

    def hidden_parameters(self, channels: Channels) -> dict[nn.Parameter, tuple[int, Tensor]]:
        """Every parameter with hidden channels -> their axis and the active ones."""
        return {
            p: (HIDDEN_AXIS[name], active)
            for operations, layer in zip(self.layers, channels)
            for operation, active in zip(operations, layer)
            for name, p in operation.named_parameters()
            if name in HIDDEN_AXIS
        }

    def select_channels(self, widths: np.ndarray, before: Channels | None = None, before_widths: np.ndarray | None = None) -> Channels:
        """Active channels of every operation: the most important ones; where the width has not changed, those before.

        Args:
            widths: (layers, operations) numbers of hidden channels.
        """

        def select(i: int, o: int) -> Tensor:
            if before is not None and widths[i, o] == before_widths[i, o]:
                return before[i][o]
            return most_important(self.layers[i][o].depthwise, int(widths[i, o]))

        return [[select(i, o) for o in range(len(operations))] for i, operations in enumerate(self.layers)]

    @torch.no_grad()
    def extract(self, arch: Arch, channels: Channels) -> RowNetwork:
        """A network with copies of the weights, in training mode; its widths are the numbers of active channels."""
        space, active = self.space, self.space.active_layers(arch.depths)
        widths = tuple(len(channels[i][o]) for i, o in enumerate(arch.operations))
        network = RowNetwork(space.plan(Arch(arch.operations, arch.depths, widths)), self.classes)
        for target, source in ((network.stem, self.stem), (network.blocks[0], self.block), (network.head, self.head)):
            target.load_state_dict(source.state_dict(), strict=False)  # without affine parts and statistics of batch norms
        network.classifier.load_state_dict(self.classifier.state_dict())
        for i, block in zip(active, network.blocks[1:], strict=True):
            parts = self.layers[i][arch.operations[i]].active_weights(channels[i][arch.operations[i]])
            convolutions = {"expand": block.expand, "depthwise": block.depthwise, "project": block.project}
            if block.row.se:
                convolutions |= {"reduce": block.se.reduce, "restore": block.se.expand}
                block.se.reduce.bias.copy_(parts["reduce_bias"])
                block.se.expand.bias.copy_(parts["restore_bias"])
            for name, convolution in convolutions.items():
                convolution.weight.copy_(parts[name])
        return network.to(self.classifier.weight.device)


@torch.no_grad()
def most_important(depthwise: Tensor, n: int) -> Tensor:
    """(channels, 1, k, k) -> (n,) int64: channels with the largest L1 norms, ascending; of equal ones the first."""
    norms = depthwise.abs().sum((1, 2, 3))
    return norms.argsort(descending=True, stable=True)[:n].sort().values


class ChannelSGD(torch.optim.Optimizer):
    """SGD with momentum and weight decay that changes neither weights nor momentum of inactive channels.

    `torch.optim.SGD` would keep moving them by their momentum and the weight decay.
    """

    def __init__(self, params, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, hidden: Mapping[nn.Parameter, tuple[int, Tensor]]) -> None:
        """One step of all parameters that have a gradient.

        Args:
            hidden: `Supernet.hidden_parameters`.
        """
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                if p not in hidden:
                    self._update(p, p.grad, state["momentum"], group)
                    continue
                axis, channels = hidden[p]
                part, grad, momentum = (t.index_select(axis, channels) for t in (p, p.grad, state["momentum"]))
                self._update(part, grad, momentum, group)
                p.index_copy_(axis, channels, part)
                state["momentum"].index_copy_(axis, channels, momentum)

    @staticmethod
    def _update(p: Tensor, grad: Tensor, momentum: Tensor, group: Mapping[str, float]) -> None:
        momentum.mul_(group["momentum"]).add_(grad).add_(p, alpha=group["weight_decay"])
        p.sub_(momentum, alpha=group["lr"])


def _batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True, eps=BN_EPS)


def _without_affine(module: nn.Module) -> nn.Module:
    """The module, its batch norms replaced by ones without affine part and running statistics."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features, eps=BN_EPS, affine=False, track_running_stats=False))
    return module

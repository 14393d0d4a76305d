"""TF-NAS's supernet: each operation of each layer has weights of its own; which of its channels run is an argument of the call.

TF-NAS (arXiv:2008.05314), sections 3.2 to 3.4. A stage's output is the sum over where it may stop, weighted by the
sinks; there is no skip operation. Each operation has weights for the most hidden channels that it may have; a narrower
one runs on some of them, those with the largest depthwise weights. Batch norm has no affine part and takes the statistics of the batch.
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

HIDDEN = {
    "expand": 0,
    "depthwise": 0,
    "reduce": 1,
    "restore": 0,
    "restore_bias": 0,
    "project": 1,
}  # parameter -> axis of the hidden channels

Kept = Sequence[Sequence[Tensor]]  # (layers)(operations) int64 channels that run, ascending


class ElasticOperation(nn.Module):
    """An inverted residual block of which some of the hidden channels run."""

    def __init__(self, row: Row, squeeze: Squeeze) -> None:
        """
        Args:
            row: with the most hidden channels.
        """
        super().__init__()
        self.row, self.act, self.gate = row, ACTIVATIONS[row.act], GATES[squeeze.gate]
        self.se_act = ACTIVATIONS[squeeze.act or row.act]
        block = InvertedResidual(row, squeeze).apply(init_weights)
        self.expand, self.depthwise, self.project = block.expand.weight, block.depthwise.weight, block.project.weight
        if row.se:
            self.reduce, self.reduce_bias = block.se.reduce.weight, block.se.reduce.bias
            self.restore, self.restore_bias = block.se.expand.weight, block.se.expand.bias

    def parts(self, kept: Tensor) -> dict[str, Tensor]:
        """Weights of the channels that run, by the parameters' names."""
        return {name: p.index_select(HIDDEN[name], kept) if name in HIDDEN else p for name, p in self.named_parameters(recurse=False)}

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride)).

        Args:
            kept: (n,) channels that run.
        """
        w, row = self.parts(kept), self.row
        y = self.act(_norm(F.conv2d(x, w["expand"])))
        y = self.act(_norm(F.conv2d(y, w["depthwise"], None, row.stride, row.kernel // 2, groups=len(kept))))
        if row.se:
            scale = self.se_act(F.conv2d(y.mean((2, 3), keepdim=True), w["reduce"], w["reduce_bias"]))
            y = y * self.gate(F.conv2d(scale, w["restore"], w["restore_bias"]))
        y = _norm(F.conv2d(y, w["project"]))
        return x + y if row.shortcut else y


class Supernet(nn.Module):
    """All networks of a space at once. Weights from torch's global generator."""

    def __init__(self, space: Space, classes: int) -> None:
        super().__init__()
        self.space, self.classes = space, classes
        fixed, (_, high) = space.fixed, space.bounds()
        self.stem = _plain(StemLayer(fixed.stem))
        self.block = _plain(InvertedResidual(fixed.rows[0], fixed.squeeze))
        self.layers = nn.ModuleList(
            nn.ModuleList(ElasticOperation(space.row(i, o, int(high[i, o])), fixed.squeeze) for o in range(len(space.operations)))
            for i in range(len(space.layers))
        )
        self.head = _plain(HeadLayer(space.layers[-1].c_out, fixed.head))
        self.classifier = nn.Linear(fixed.head.features, classes)
        for part in (self.stem, self.block, self.head, self.classifier):
            part.apply(init_weights)

    def path(self, images: Tensor, operations: Sequence[int], sinks: Sequence[Tensor], kept: Kept) -> Tensor:
        """One operation a layer: (B, 3, H, W) normalised images -> (B, classes) logits.

        Args:
            operations: (layers,)
            sinks: a stage, (depth,) weights of where it may stop.
            kept: channels of each operation that run.
        """
        return self._run(images, lambda i, x: self.layers[i][operations[i]](x, kept[i][operations[i]]), sinks)

    def mixture(self, images: Tensor, weights: Tensor, sinks: Sequence[Tensor], kept: Kept) -> Tensor:
        """All operations of every layer, weighted: (B, 3, H, W) normalised images -> (B, classes) logits.

        Args:
            weights: (layers, operations)
        """

        def mixed(i: int, x: Tensor) -> Tensor:
            return sum(w * operation(x, channels) for w, operation, channels in zip(weights[i], self.layers[i], kept[i]))

        return self._run(images, mixed, sinks)

    def _run(self, images: Tensor, layer: Callable[[int, Tensor], Tensor], sinks: Sequence[Tensor]) -> Tensor:
        x = self.block(self.stem(resize(images, self.space.resolution)))
        for places, sink in zip(stage_slices(self.space), sinks, strict=True):
            outputs = []
            for i in range(places.start, places.stop):
                x = layer(i, x)
                outputs.append(x)
            x = sum(weight * y for weight, y in zip(sink, outputs))
        return self.classifier(self.head(x))

    def hidden_parameters(self, kept: Kept) -> dict[nn.Parameter, tuple[int, Tensor]]:
        """Every parameter that has hidden channels -> their axis and those that run."""
        return {
            p: (HIDDEN[name], channels)
            for operations, row in zip(self.layers, kept)
            for operation, channels in zip(operations, row)
            for name, p in operation.named_parameters()
            if name in HIDDEN
        }

    def choose(self, widths: np.ndarray, before: Kept | None = None, before_widths: np.ndarray | None = None) -> Kept:
        """Channels of each operation: the most important ones; where the width is what it was, those that ran before.

        Args:
            widths: (layers, operations) numbers of hidden channels.
        """
        found = []
        for i, operations in enumerate(self.layers):
            row = []
            for o, operation in enumerate(operations):
                if before is not None and widths[i, o] == before_widths[i, o]:
                    row.append(before[i][o])
                else:
                    row.append(important(operation.depthwise, int(widths[i, o])))
            found.append(row)
        return found

    @torch.no_grad()
    def extract(self, choice: Arch, kept: Kept) -> RowNetwork:
        """One network with copies of its weights, in training mode; its widths are those of the channels that run."""
        space, used = self.space, self.space.active_layers(choice.depths)
        widths = tuple(len(kept[i][o]) for i, o in enumerate(choice.operations))
        network = RowNetwork(space.plan(Arch(choice.operations, choice.depths, widths)), self.classes)
        for mine, theirs in ((network.stem, self.stem), (network.blocks[0], self.block), (network.head, self.head)):
            mine.load_state_dict(theirs.state_dict(), strict=False)  # no affine parts and statistics of batch norms
        network.classifier.load_state_dict(self.classifier.state_dict())
        for i, block in zip(used, network.blocks[1:], strict=True):
            parts = self.layers[i][choice.operations[i]].parts(kept[i][choice.operations[i]])
            convolutions = {"expand": block.expand, "depthwise": block.depthwise, "project": block.project}
            if block.row.se:
                convolutions |= {"reduce": block.se.reduce, "restore": block.se.expand}
                block.se.reduce.bias.copy_(parts["reduce_bias"])
                block.se.expand.bias.copy_(parts["restore_bias"])
            for name, convolution in convolutions.items():
                convolution.weight.copy_(parts[name])
        return network.to(self.classifier.weight.device)


@torch.no_grad()
def important(depthwise: Tensor, number: int) -> Tensor:
    """(channels, 1, k, k) -> (number,) int64: channels with the largest L1 norms, ascending; of equal ones the first."""
    norms = depthwise.abs().sum((1, 2, 3))
    return norms.argsort(descending=True, stable=True)[:number].sort().values


class ChannelSGD(torch.optim.Optimizer):
    """SGD with momentum and weight decay that leaves alone what did not run: neither weight nor momentum of it changes.

    torch's own would go on moving channels that were dropped, by their momentum and the weight decay.
    """

    def __init__(self, params, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, hidden: Mapping[nn.Parameter, tuple[int, Tensor]]) -> None:
        """One step of every parameter that has a gradient.

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


def _norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True, eps=BN_EPS)


def _plain(module: nn.Module) -> nn.Module:
    """Its batch norms without affine parts and running statistics."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features, eps=BN_EPS, affine=False, track_running_stats=False))
    return module

"""A sub-network as a plain torch module: no slicing, no supernet, ready to calibrate, fine-tune and export."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import Device, Linear, SqueezeExcite, batch_norm, conv
from nas.models.layers import ElasticBatchNorm2d, ElasticConv2d, ElasticMBConv, pool_shortcut, resize
from nas.models.supernet import Supernet
from nas.runtime.checkpoint import load_weights
from nas.spaces.mbconv import Arch, SearchSpace, hidden_width, make_divisible


class MBConv(nn.Module):
    """Inverted residual block of fixed sizes; see `ElasticMBConv`."""

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int, se: bool, device: Device = None) -> None:
        super().__init__()
        hidden = hidden_width(c_in, expansion)
        self.stride = stride
        self.expand = conv(c_in, hidden, device=device) if expansion > 1 else None
        self.expand_bn = batch_norm(hidden, device) if expansion > 1 else None
        self.depthwise = conv(hidden, hidden, kernel, stride, groups=hidden, device=device)
        self.depthwise_bn = batch_norm(hidden, device)
        self.se = SqueezeExcite(hidden, make_divisible(hidden // 4), "ReLU", "HSigmoid", device) if se else None
        self.project = conv(hidden, c_out, device=device)
        self.project_bn = batch_norm(c_out, device)
        self.shortcut = conv(c_in, c_out, device=device) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride))."""
        y, inplace = x, not self.training  # in training autograd needs the outputs of the batch norms
        if self.expand is not None:
            y = F.silu(self.expand_bn(self.expand(y)), inplace)
        y = F.silu(self.depthwise_bn(self.depthwise(y)), inplace)
        if self.se is not None:
            y = self.se(y)
        y = self.project_bn(self.project(y))
        short = pool_shortcut(x, self.stride)
        return y + (short if self.shortcut is None else self.shortcut(short))


class Network(nn.Module):
    """One architecture as a plain network. Resizes its input to the architecture's resolution."""

    def __init__(self, space: SearchSpace, arch: Arch, classes: int, device: Device = None) -> None:
        super().__init__()
        self.resolution = space.check(arch).resolution
        self.stem = conv(3, arch.stem, 3, space.stem_stride, device=device)
        self.stem_bn = batch_norm(arch.stem, device)
        self.stages = nn.ModuleList()
        c_in = arch.stem
        for stage_space, stage in zip(space.stages, arch.stages):
            blocks = []
            for i in range(stage.depth):
                stride = stage_space.stride if i == 0 else 1
                blocks.append(MBConv(c_in, stage.width, stage.kernel, stage.expansion, stride, stage_space.se, device))
                c_in = stage.width
            self.stages.append(nn.Sequential(*blocks))
        expanded = c_in * space.head_expansion
        self.head_expand = conv(c_in, expanded, device=device)
        self.head_bn = batch_norm(expanded, device)
        self.head_mix = conv(expanded, arch.head, device=device)
        self.dropout = nn.Dropout(0.0)  # fine-tuning sets its probability
        self.classifier = Linear(arch.head, classes, device=device)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits."""
        x, inplace = resize(images, self.resolution), not self.training
        x = F.silu(self.stem_bn(self.stem(x)), inplace)
        for stage in self.stages:
            x = stage(x)
        x = F.silu(self.head_bn(self.head_expand(x)), inplace)
        x = F.silu(self.head_mix(x.mean((2, 3), keepdim=True))).flatten(1)
        return self.classifier(self.dropout(x))


@torch.no_grad()
def extract(supernet: Supernet, arch: Arch) -> Network:
    """The sub-network with copies of its part of the weights, in training mode (batch statistics).

    Its batch-norm statistics are empty: calibrate (`nas.evaluation.evaluate.calibrate`) before `eval()`.

    Raises:
        ValueError: if the architecture is not in the supernet's space.
    """
    network = Network(supernet.space, arch, supernet.classes, device="meta")
    copied = _CopiedWeights(supernet)
    copied.conv("stem", supernet.stem, 3, arch.stem)
    copied.norm("stem_bn", supernet.stem_bn, arch.stem)
    c_in = arch.stem
    for s, (blocks, stage) in enumerate(zip(supernet.stages, arch.stages)):
        for i in range(stage.depth):
            copied.block(f"stages.{s}.{i}", blocks[i], c_in, stage.width, stage.kernel, stage.expansion)
            c_in = stage.width
    expanded = c_in * supernet.space.head_expansion
    copied.conv("head_expand", supernet.head_expand, c_in, expanded)
    copied.norm("head_bn", supernet.head_bn, expanded)
    copied.conv("head_mix", supernet.head_mix, expanded, arch.head)
    copied.add("classifier", *supernet.classifier.part(arch.head))
    copied.assign(network)
    return network


class _CopiedWeights:
    """Copies of a supernet's weights by the names that they have in the extracted network."""

    def __init__(self, supernet: Supernet) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._shared = {p.data_ptr() for p in supernet.parameters()}

    def add(self, name: str, weight: Tensor, bias: Tensor | None = None) -> None:
        for kind, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None:  # a proper part is a copy already
                self._tensors[f"{name}.{kind}"] = tensor.clone() if tensor.data_ptr() in self._shared else tensor

    def conv(self, name: str, module: ElasticConv2d, c_in: int, c_out: int) -> None:
        self.add(name, *module.part(c_in, c_out))

    def norm(self, name: str, module: ElasticBatchNorm2d, channels: int) -> None:
        self.add(name, *module.part(channels))
        self._tensors[f"{name}.running_mean"] = module.bias.new_zeros(channels)
        self._tensors[f"{name}.running_var"] = module.bias.new_ones(channels)
        self._tensors[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.long, device=module.bias.device)

    def block(self, name: str, module: ElasticMBConv, c_in: int, width: int, kernel: int, expansion: int) -> None:
        hidden = hidden_width(c_in, expansion)
        if module.expand is not None:
            self.conv(f"{name}.expand", module.expand, c_in, hidden)
            self.norm(f"{name}.expand_bn", module.expand_bn, hidden)
        self.add(f"{name}.depthwise", module.depthwise.part(hidden, kernel))
        self.norm(f"{name}.depthwise_bn", module.depthwise_bn, hidden)
        if module.se is not None:
            reduced = make_divisible(hidden // 4)
            self.conv(f"{name}.se.reduce", module.se.reduce, hidden, reduced)
            self.conv(f"{name}.se.expand", module.se.expand, reduced, hidden)
        self.conv(f"{name}.project", module.project, hidden, width)
        self.norm(f"{name}.project_bn", module.project_bn, width)
        if c_in != width:
            self.conv(f"{name}.shortcut", module.shortcut, c_in, width)

    def assign(self, network: Network) -> None:
        """Replace all parameters and buffers; `load_state_dict(assign=True)` takes twice as long."""
        for name, module in network.named_modules():
            for kind in module._parameters:
                if module._parameters[kind] is not None:
                    module._parameters[kind] = nn.Parameter(self._tensors.pop(f"{name}.{kind}"))
            for kind in module._buffers:
                module._buffers[kind] = self._tensors.pop(f"{name}.{kind}")


def load_network(weights: Path, space: SearchSpace, arch: Arch, classes: int) -> Network:
    """A network with the weights of a file, in eval mode on the CPU.

    Raises:
        CheckpointError: if the file is missing or holds other weights.
    """
    network = Network(space, arch, classes)
    load_weights(weights, network)
    return network.eval()

"""A sub-network as a plain torch module of its own: no slicing, no supernet, ready to calibrate, fine-tune and export."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.space import Arch, SearchSpace
from nas.supernet.layers import BN_EPS, ElasticBatchNorm2d, ElasticConv2d, ElasticMBConv, hidden_width, make_divisible, pool_shortcut, resize
from nas.supernet.network import Supernet


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation of a fixed width; see `ElasticSqueezeExcite`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = make_divisible(channels // 4)
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape."""
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class MBConv(nn.Module):
    """Inverted residual block of fixed sizes; see `ElasticMBConv`."""

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int, se: bool) -> None:
        super().__init__()
        hidden = hidden_width(c_in, expansion)
        self.stride = stride
        self.expand = nn.Conv2d(c_in, hidden, 1, bias=False) if expansion > 1 else None
        self.expand_bn = nn.BatchNorm2d(hidden, eps=BN_EPS) if expansion > 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, padding=kernel // 2, groups=hidden, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(hidden, eps=BN_EPS)
        self.se = SqueezeExcite(hidden) if se else None
        self.project = nn.Conv2d(hidden, c_out, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(c_out, eps=BN_EPS)
        self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride))."""
        y = x
        if self.expand is not None:
            y = F.silu(self.expand_bn(self.expand(y)))
        y = F.silu(self.depthwise_bn(self.depthwise(y)))
        if self.se is not None:
            y = self.se(y)
        y = self.project_bn(self.project(y))
        short = pool_shortcut(x, self.stride)
        return y + (short if self.shortcut is None else self.shortcut(short))


class Network(nn.Module):
    """One architecture as a network of its own. Resizes its input to the architecture's resolution."""

    def __init__(self, space: SearchSpace, arch: Arch, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.arch = space.check(arch)
        self.resolution = arch.resolution
        self.stem = nn.Conv2d(3, arch.stem, 3, space.stem_stride, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(arch.stem, eps=BN_EPS)
        self.stages = nn.ModuleList()
        c_in = arch.stem
        for offered, chosen in zip(space.stages, arch.stages):
            blocks = nn.Sequential()
            for i in range(chosen.depth):
                stride = offered.stride if i == 0 else 1
                blocks.append(MBConv(c_in, chosen.width, chosen.kernel, chosen.expansion, stride, offered.se))
                c_in = chosen.width
            self.stages.append(blocks)
        self.head_expand = nn.Conv2d(c_in, c_in * space.head_expansion, 1, bias=False)
        self.head_bn = nn.BatchNorm2d(c_in * space.head_expansion, eps=BN_EPS)
        self.head_mix = nn.Conv2d(c_in * space.head_expansion, arch.head, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(arch.head, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images -> (B, classes) logits."""
        x = resize(images, self.resolution)
        x = F.silu(self.stem_bn(self.stem(x)))
        for stage in self.stages:
            x = stage(x)
        x = F.silu(self.head_bn(self.head_expand(x)))
        x = F.silu(self.head_mix(x.mean((2, 3), keepdim=True))).flatten(1)
        return self.classifier(self.dropout(x))


def blank(space: SearchSpace, arch: Arch, classes: int, device: torch.device | str = "cpu") -> Network:
    """A network whose weights are still to be loaded: no time is spent on drawing them."""
    with torch.device("meta"):
        network = Network(space, arch, classes)
    return network.to_empty(device=device)


@torch.no_grad()
def extract(supernet: Supernet, arch: Arch) -> Network:
    """The sub-network with copies of its part of the weights, in training mode (batch statistics).

    Its batch-norm statistics are empty: calibrate (`nas.evaluation.calibrate`) before `eval()`.

    Raises:
        ValueError: if the architecture is not in the supernet's space.
    """
    with torch.device("meta"):
        network = Network(supernet.space, arch, supernet.classes)
    parts: dict[str, Tensor] = {}

    def take(name: str, weight: Tensor, bias: Tensor | None = None) -> None:
        parts[f"{name}.weight"] = weight.clone(memory_format=torch.contiguous_format)
        if bias is not None:
            parts[f"{name}.bias"] = bias.clone()

    def conv(name: str, module: ElasticConv2d, c_in: int, out: int) -> None:
        take(name, *module.part(c_in, out))

    def norm(name: str, module: ElasticBatchNorm2d, channels: int) -> None:
        take(name, *module.part(channels))
        parts[f"{name}.running_mean"] = module.bias.new_zeros(channels)
        parts[f"{name}.running_var"] = module.bias.new_ones(channels)
        parts[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.long, device=module.bias.device)

    def block(name: str, module: ElasticMBConv, c_in: int, width: int, kernel: int, expansion: int) -> None:
        hidden = hidden_width(c_in, expansion)
        if module.expand is not None:
            conv(f"{name}.expand", module.expand, c_in, hidden)
            norm(f"{name}.expand_bn", module.expand_bn, hidden)
        take(f"{name}.depthwise", module.depthwise.part(hidden, kernel))
        norm(f"{name}.depthwise_bn", module.depthwise_bn, hidden)
        if module.se is not None:
            reduced = make_divisible(hidden // 4)
            conv(f"{name}.se.reduce", module.se.reduce, hidden, reduced)
            conv(f"{name}.se.expand", module.se.expand, reduced, hidden)
        conv(f"{name}.project", module.project, hidden, width)
        norm(f"{name}.project_bn", module.project_bn, width)
        if c_in != width:
            conv(f"{name}.shortcut", module.shortcut, c_in, width)

    conv("stem", supernet.stem, 3, arch.stem)
    norm("stem_bn", supernet.stem_bn, arch.stem)
    c_in = arch.stem
    for s, (modules, chosen) in enumerate(zip(supernet.stages, arch.stages)):
        for i in range(chosen.depth):
            block(f"stages.{s}.{i}", modules[i], c_in, chosen.width, chosen.kernel, chosen.expansion)
            c_in = chosen.width
    expanded = c_in * supernet.space.head_expansion
    conv("head_expand", supernet.head_expand, c_in, expanded)
    norm("head_bn", supernet.head_bn, expanded)
    conv("head_mix", supernet.head_mix, expanded, arch.head)
    take("classifier", supernet.classifier.weight[:, : arch.head], supernet.classifier.bias)
    network.load_state_dict(parts, assign=True)
    return network

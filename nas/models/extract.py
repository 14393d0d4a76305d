"""A sub-network as a plain torch module of its own: no slicing, no supernet, ready to calibrate, fine-tune and export."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.layers import BN_EPS, ElasticBatchNorm2d, ElasticConv2d, ElasticMBConv, pool_shortcut, resize
from nas.models.supernet import Supernet
from nas.spaces.mbconv import Arch, SearchSpace, hidden_width, make_divisible

Device = torch.device | str | None


class _Blank:
    """On the meta device no weights are drawn: they are about to be replaced."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


class Conv2d(_Blank, nn.Conv2d):
    pass


class BatchNorm2d(_Blank, nn.BatchNorm2d):
    pass


class Linear(_Blank, nn.Linear):
    pass


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation of a fixed width; see `ElasticSqueezeExcite`."""

    def __init__(self, channels: int, device: Device = None) -> None:
        super().__init__()
        reduced = make_divisible(channels // 4)
        self.reduce = Conv2d(channels, reduced, 1, device=device)
        self.expand = Conv2d(reduced, channels, 1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape."""
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class MBConv(nn.Module):
    """Inverted residual block of fixed sizes; see `ElasticMBConv`."""

    def __init__(self, c_in: int, c_out: int, kernel: int, expansion: int, stride: int, se: bool, device: Device = None) -> None:
        super().__init__()
        hidden = hidden_width(c_in, expansion)
        conv = partial(Conv2d, bias=False, device=device)
        norm = partial(BatchNorm2d, eps=BN_EPS, device=device)
        self.stride = stride
        self.expand = conv(c_in, hidden, 1) if expansion > 1 else None
        self.expand_bn = norm(hidden) if expansion > 1 else None
        self.depthwise = conv(hidden, hidden, kernel, stride, padding=kernel // 2, groups=hidden)
        self.depthwise_bn = norm(hidden)
        self.se = SqueezeExcite(hidden, device) if se else None
        self.project = conv(hidden, c_out, 1)
        self.project_bn = norm(c_out)
        self.shortcut = conv(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H/stride), ceil(W/stride))."""
        y, inplace = x, not self.training  # in training the batch norms' results are kept for the gradients
        if self.expand is not None:
            y = F.silu(self.expand_bn(self.expand(y)), inplace)
        y = F.silu(self.depthwise_bn(self.depthwise(y)), inplace)
        if self.se is not None:
            y = self.se(y)
        y = self.project_bn(self.project(y))
        short = pool_shortcut(x, self.stride)
        return y + (short if self.shortcut is None else self.shortcut(short))


class Network(nn.Module):
    """One architecture as a network of its own. Resizes its input to the architecture's resolution."""

    def __init__(self, space: SearchSpace, arch: Arch, classes: int, device: Device = None) -> None:
        super().__init__()
        conv = partial(Conv2d, bias=False, device=device)
        norm = partial(BatchNorm2d, eps=BN_EPS, device=device)
        self.resolution = space.check(arch).resolution
        self.stem = conv(3, arch.stem, 3, space.stem_stride, padding=1)
        self.stem_bn = norm(arch.stem)
        self.stages = nn.ModuleList()
        c_in = arch.stem
        for offered, chosen in zip(space.stages, arch.stages):
            blocks = []
            for i in range(chosen.depth):
                stride = offered.stride if i == 0 else 1
                blocks.append(MBConv(c_in, chosen.width, chosen.kernel, chosen.expansion, stride, offered.se, device))
                c_in = chosen.width
            self.stages.append(nn.Sequential(*blocks))
        expanded = c_in * space.head_expansion
        self.head_expand = conv(c_in, expanded, 1)
        self.head_bn = norm(expanded)
        self.head_mix = conv(expanded, arch.head, 1)
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
    parts: dict[str, Tensor] = {}
    shared = {p.data_ptr() for p in supernet.parameters()}

    def own(weight: Tensor) -> Tensor:
        return weight.clone() if weight.data_ptr() in shared else weight  # a cut part is a copy already

    def take(name: str, weight: Tensor, bias: Tensor | None = None) -> None:
        parts[f"{name}.weight"] = own(weight)
        if bias is not None:
            parts[f"{name}.bias"] = own(bias)

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
    take("classifier", *supernet.classifier.part(arch.head))
    for name, module in network.named_modules():  # load_state_dict(assign=True) does this in twice the time
        for kind in module._parameters:
            if module._parameters[kind] is not None:
                module._parameters[kind] = nn.Parameter(parts.pop(f"{name}.{kind}"))
        for kind in module._buffers:
            module._buffers[kind] = parts.pop(f"{name}.{kind}")
    return network

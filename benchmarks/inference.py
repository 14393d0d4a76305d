"""Speed of inference: `python -m benchmarks.inference [threads]`; the family where `make repro` has run.

Networks are measured interleaved in one run: medians, and medians of the ratios of a turn. Four ways to run a network:
folded in channels_last (`nas.load`), ONNX Runtime, plain torch.nn (batch norms, modules in sequence) in channels_last
and in torch's usual order of channels. MobileNetV2 is torchvision's, in channels_last too, as it comes and folded.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.data.torchvision_import import models
from nas.export import bundle
from nas.export.onnx import ONNX, open_onnx, to_onnx
from nas.export.quantize import INT8
from nas.export.torch_export import trace
from nas.models.extract import MBConv, Network
from nas.models.fuse import fold
from nas.models.published import SPACE
from nas.runtime.processes import processor
from nas.spaces import mbconv
from nas.spaces import published as spaces

BATCH = 32
TURNS = 15
FAMILY = Path("outputs/export/family")


class Residual(nn.Module):
    """A branch beside a shortcut, both made of torch.nn's modules."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


class Scaled(nn.Module):
    """Squeeze-and-excitation out of torch.nn's modules."""

    def __init__(self, scale: nn.Module) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale(x)


def plain(network: Network) -> nn.Sequential:
    """The same network as anybody would write it with torch.nn, for images of its resolution."""
    blocks = [plain_block(block) for stage in network.stages for block in stage]
    return nn.Sequential(
        nn.Sequential(network.stem, network.stem_bn, nn.SiLU()),
        *blocks,
        nn.Sequential(network.head_expand, network.head_bn, nn.SiLU(), nn.AdaptiveAvgPool2d(1), network.head_mix, nn.SiLU()),
        nn.Flatten(),
        network.classifier,
    ).eval()


def plain_block(block: MBConv) -> Residual:
    """An MBConv block."""
    branch = [] if block.expand is None else [block.expand, block.expand_bn, nn.SiLU()]
    branch += [block.depthwise, block.depthwise_bn, nn.SiLU()]
    if block.se is not None:
        scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), block.se.reduce, nn.ReLU(), block.se.expand, nn.Hardsigmoid())
        branch.append(Scaled(scale))
    short = [nn.AvgPool2d(2, 2, ceil_mode=True)] if block.stride == 2 else []
    short += [block.shortcut] if block.shortcut is not None else []
    return Residual(nn.Sequential(*branch, block.project, block.project_bn), nn.Sequential(*short))


def interleaved(runs: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each turn, after two turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(2 + TURNS):
        for name in list(runs)[:: 1 if turn % 2 else -1]:  # whichever comes second finds the memory warm
            start = time.perf_counter()
            runs[name]()
            if turn >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def mflops(module: nn.Module, images: Tensor) -> float:
    """Millions of multiply-accumulates an image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images[:1])
    return counter.get_total_flops() / 2e6


def called(module: nn.Module, images: Tensor) -> Callable[[], object]:
    """Runs the module without gradients."""

    def run() -> Tensor:
        with torch.inference_mode():
            return module(images)

    return run


def show(title: str, times: dict[str, list[float]], costs: dict[str, float]) -> None:
    """Medians, and ratios to the first."""
    base = next(iter(times))
    print(f"\n{title}")
    for name, ms in times.items():
        ratio = statistics.median(a / b for a, b in zip(times[base], ms))
        per = statistics.median((a / costs[base]) / (b / costs[name]) for a, b in zip(times[base], ms))
        print(
            f"  {name:34} {statistics.median(ms):9.2f} ms {1000 * statistics.median(ms) / BATCH / costs[name]:8.3f} us a MFLOP; "
            f"{base} takes {ratio:.2f} of it, {per:.2f} per FLOP"
        )


def published(name: str, threads: int) -> None:
    """One of the papers' networks at its resolution, beside MobileNetV2 at 224 px."""
    network = nas.published(name)
    side = network.resolution
    images = torch.randn(BATCH, 3, side, side, generator=torch.Generator().manual_seed(0))
    last = images.contiguous(memory_format=torch.channels_last)
    mobile, large = models.mobilenet_v2().eval(), torch.randn(BATCH, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    folded = fold(network).to(memory_format=torch.channels_last)
    same = plain(copied(name, network))
    with torch.inference_mode():
        assert torch.allclose(same(images), folded(images), atol=1e-3)
    runs = {"folded, channels_last": called(folded, last)}
    costs = {"folded, channels_last": mflops(folded, last)}

    def add(title: str, module: nn.Module, x: Tensor) -> None:
        runs[title], costs[title] = called(module, x), mflops(module, x)

    add("plain torch.nn", same, images)
    add("plain torch.nn, channels_last", plain(copied(name, network)).to(memory_format=torch.channels_last), last)
    add("MobileNetV2, channels_last", mobile.to(memory_format=torch.channels_last), large)
    add("MobileNetV2, channels_last, folded", fuse(mobile).to(memory_format=torch.channels_last), large)
    with TemporaryDirectory() as folder:
        session = open_onnx(onnx_file(network, name, Path(folder)), threads)
    pixels = np.random.default_rng(0).integers(256, size=(BATCH, 3, side, side), dtype=np.uint8)
    runs["ONNX Runtime"], costs["ONNX Runtime"] = partial(session, pixels), costs["folded, channels_last"]
    show(f"{name}, batch {BATCH}, {side} px", interleaved(runs), costs)


def copied(name: str, network: Network) -> Network:
    """The network with tensors of its own."""
    copy = nas.published(name)
    copy.load_state_dict(network.state_dict())
    return copy


def onnx_file(network: Network, name: str, folder: Path) -> Path:
    """The network as an ONNX file."""
    described = bundle.Description(
        name=name,
        dataset="ImageNet",
        classes=tuple(map(str, range(1000))),
        images=bundle.Preparation(side=network.resolution, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        architecture=bundle.Architecture.of(mbconv.load(SPACE), spaces.find(name).arch),
    )
    program = trace(bundle.Classifier(fold(network), described).eval())
    path = folder / ONNX
    path.write_bytes(to_onnx(program, network.resolution, 1000).SerializeToString())
    return path


def family(threads: int) -> None:
    """The bundles of stage export."""
    for folder in sorted(FAMILY.iterdir()):
        classifier = nas.load(folder)
        side = classifier.description.images.side
        pixels = np.random.default_rng(0).integers(256, size=(BATCH, 3, side, side), dtype=np.uint8)
        images = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
        runs = {
            "folded, channels_last": called(classifier.to(memory_format=torch.channels_last), images),
            "ONNX Runtime": partial(open_onnx(folder / ONNX, threads), pixels),
            "ONNX Runtime, 8 bits": partial(open_onnx(folder / INT8, threads), pixels),
        }
        show(f"{folder.name}, batch {BATCH}, {side} px", interleaved(runs), dict.fromkeys(runs, mflops(classifier, images)))


def main(threads: int = 2) -> None:
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads, {processor()}")
    published("AttentiveNAS-A0", threads)
    if FAMILY.is_dir():
        family(threads)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

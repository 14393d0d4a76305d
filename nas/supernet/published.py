"""The published AttentiveNAS and AlphaNet networks: built by name, and their weights read into a supernet of this project.

The weights are the authors' (CC BY-NC, not distributed here; `nas.import_checkpoint` says where they are). Only tensor
names and shapes are known to this module. `nas/spaces/attentive_nas.yaml` with 1000 classes is the space they fit.
"""

import pickle
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nas import space, spaces
from nas.supernet.extract import Network
from nas.supernet.network import Supernet

CLASSES = 1000  # of ImageNet, on which they were trained
SPACE = spaces.FOLDER / "attentive_nas.yaml"


def network(name: str, classes: int = CLASSES) -> Network:
    """A published network as a plain module in eval mode, e.g. `nas.published("AttentiveNAS-A0")`; its weights are random.

    `python -m nas.import_checkpoint` makes one with the authors' weights. Input: normalised pictures (batch, 3, H, W).

    Args:
        name: AttentiveNAS-A0 to A6; AlphaNet-A0 to A4, A5-small, A5-base, A6.
        classes: of the classifier; its multiply-accumulates count, so other than 1000 have other FLOPs.

    Raises:
        ValueError: for an unknown name; lists the known ones.
        RuntimeError: if the multiply-accumulates of the module are not the published ones.
    """
    arch, searched = spaces.published(name), space.load(SPACE)
    mflops = next(n.mflops for n in spaces.networks() if n.name == name)
    if abs((counted := count_mflops(Network(searched, arch, CLASSES, device="meta"))) - mflops) > 0.001:
        raise RuntimeError(f"{name} was built with {counted:.3f} MFLOPs, published are {mflops:.3f}: the network is not the published one")
    return Network(searched, arch, classes).eval()


def count_mflops(network: Network) -> float:
    """Millions of multiply-accumulates of a picture, counted by torch while the network runs (on the meta device nothing is computed)."""
    weight = network.classifier.weight
    picture = torch.zeros((1, 3, network.resolution, network.resolution), device=weight.device)
    training = network.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(picture)
    network.train(training)
    return counter.get_total_flops() / 2e6  # torch counts a multiplication and an addition


def load_published(path: str | Path) -> dict[str, Tensor]:
    """Weight tensors of an authors' checkpoint file, by their published names; nothing is unpickled but tensors.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, holds more than tensors and plain values, or no `state_dict` of such weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is no checkpoint, or would run code when it is opened, and is refused ({reason}). If it is the authors' file, "
            "save its state_dict alone, with torch.save, where that does no harm"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:  # torch has many words for a broken file
        raise ValueError(f"{path} ({path.stat().st_size} bytes) is no whole checkpoint file: {error}; fetch it again") from None
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    tensors = isinstance(state, dict) and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items())
    if not tensors or not any(name.endswith("first_conv.conv.conv.weight") for name in state):
        raise ValueError(f"{path} is not an AttentiveNAS checkpoint: no tensor first_conv.conv.conv.weight under 'state_dict'")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


@torch.no_grad()
def import_published(supernet: Supernet, tensors: dict[str, Tensor]) -> None:
    """Copy tensors with the published names into the supernet, every weight of it.

    Batch-norm statistics in the file are not needed and passed over, as are the 1x1 shortcut
    convolutions of blocks whose channel counts never differ.

    Raises:
        ValueError: for a missing tensor or one of another shape; names both.
    """
    for theirs, ours in names(supernet).items():
        target = supernet.get_parameter(ours)
        if theirs not in tensors:
            raise ValueError(f"the checkpoint has no tensor {theirs!r} (for {ours})")
        if tensors[theirs].shape != target.shape:
            raise ValueError(
                f"{theirs} is {tuple(tensors[theirs].shape)}, {ours} needs {tuple(target.shape)}: "
                f"another search space than {supernet.space.name!r} or other than {supernet.classes} classes"
            )
        target.copy_(tensors[theirs])


def names(supernet: Supernet) -> dict[str, str]:
    """Published tensor name -> parameter name here. Blocks are numbered through all stages at their largest depth."""
    modules = {
        "first_conv.conv.conv": "stem",
        "first_conv.bn.bn": "stem_bn",
        "last_conv.final_expand_layer.conv.conv": "head_expand",
        "last_conv.final_expand_layer.bn.bn": "head_bn",
        "last_conv.feature_mix_layer.conv.conv": "head_mix",
        "classifier.linear.linear": "classifier",
    }
    block = {
        "mobile_inverted_conv.inverted_bottleneck.conv.conv": "expand",
        "mobile_inverted_conv.inverted_bottleneck.bn.bn": "expand_bn",
        "mobile_inverted_conv.depth_conv.conv.conv": "depthwise",
        "mobile_inverted_conv.depth_conv.bn.bn": "depthwise_bn",
        "mobile_inverted_conv.depth_conv.se.fc.reduce": "se.reduce",
        "mobile_inverted_conv.depth_conv.se.fc.expand": "se.expand",
        "mobile_inverted_conv.point_linear.conv.conv": "project",
        "mobile_inverted_conv.point_linear.bn.bn": "project_bn",
        "shortcut.conv.conv": "shortcut",
    }
    number = 0
    for s, blocks in enumerate(supernet.stages):
        for i in range(len(blocks)):
            modules |= {f"blocks.{number}.{theirs}": f"stages.{s}.{i}.{ours}" for theirs, ours in block.items()}
            number += 1
    present = dict(supernet.named_parameters())
    pairs = ((f"{theirs}.{kind}", f"{ours}.{kind}") for theirs, ours in modules.items() for kind in ("weight", "bias"))
    return {theirs: ours for theirs, ours in pairs if ours in present}

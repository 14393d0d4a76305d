"""The published AttentiveNAS and AlphaNet networks, built by name; their checkpoints read into a supernet.

The weights are the authors' (CC BY-NC, not distributed here; `nas.export.import_checkpoint` says where they are). This
module uses only the names and shapes of their tensors, which fit `nas/spaces/attentive_nas.yaml` with 1000 classes.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nas.models.extract import Network
from nas.models.supernet import Supernet
from nas.spaces import FOLDER, mbconv, published

CLASSES = 1000  # of ImageNet
SPACE = FOLDER / "attentive_nas.yaml"

# Published module name -> the supernet's.
MODULES = {
    "first_conv.conv.conv": "stem",
    "first_conv.bn.bn": "stem_bn",
    "last_conv.final_expand_layer.conv.conv": "head_expand",
    "last_conv.final_expand_layer.bn.bn": "head_bn",
    "last_conv.feature_mix_layer.conv.conv": "head_mix",
    "classifier.linear.linear": "classifier",
}
BLOCK_MODULES = {
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


class WeightsError(ValueError):
    """A file holds no published weights that can be read."""


def network(name: str, classes: int = CLASSES) -> Network:
    """A published network as a plain module in eval mode, e.g. `nas.published("AttentiveNAS-A0")`; its weights are random.

    `python -m nas.export.import_checkpoint` makes one with the authors' weights. Input: normalised images (batch, 3, H, W).

    Args:
        name: AttentiveNAS-A0 to A6; AlphaNet-A0 to A4, A5-small, A5-base, A6.
        classes: of the classifier; its multiply-accumulates count, so other than 1000 have other FLOPs.

    Raises:
        ValueError: for an unknown name; lists the known ones.
        RuntimeError: if the multiply-accumulates of the module are not the published ones.
    """
    entry, space = published.find(name), mbconv.load(SPACE)
    if abs((counted := count_mflops(Network(space, entry.arch, CLASSES, device="meta"))) - entry.mflops) > 0.001:
        raise RuntimeError(f"{name} is built with {counted:.3f} MFLOPs, published are {entry.mflops:.3f}")
    return Network(space, entry.arch, classes).eval()


def count_mflops(network: Network) -> float:
    """Millions of multiply-accumulates per image, counted by torch in a forward pass (on the meta device nothing is computed)."""
    weight = network.classifier.weight
    image = torch.zeros((1, 3, network.resolution, network.resolution), device=weight.device)
    training = network.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(image)
    network.train(training)
    return counter.get_total_flops() / 2e6  # torch counts a multiplication and an addition


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Weight tensors of an authors' checkpoint file, by their published names; only tensors and plain values are unpickled.

    Raises:
        FileNotFoundError: if there is no such file.
        WeightsError: if it cannot be read, holds more than tensors and plain values, or no `state_dict` of such weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that it cannot or will not read
        reason = str(error).partition("\n")[0]
        if reason.startswith("Weights only load failed"):
            raise WeightsError(
                f"{path} is no checkpoint, or would run code when it is opened, and is refused ({reason}). If it is the authors' file, "
                "save only its state_dict, with torch.save, where that does no harm"
            ) from None
        raise WeightsError(f"{path} ({path.stat().st_size} bytes) is no whole checkpoint file: {error}; fetch it again") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not any(str(name).endswith("first_conv.conv.conv.weight") for name in state):
        raise WeightsError(f"{path} is not an AttentiveNAS checkpoint: no tensor first_conv.conv.conv.weight under 'state_dict'")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()):
        raise WeightsError(f"{path} is not an AttentiveNAS checkpoint: its state_dict holds more than tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


@torch.no_grad()
def import_weights(supernet: Supernet, tensors: dict[str, Tensor]) -> None:
    """Copy tensors with published names into every weight of the supernet.

    Batch-norm statistics in the file are not needed and skipped, as are the 1x1 shortcut
    convolutions of blocks whose channel counts never differ.

    Raises:
        ValueError: for a missing tensor or one of another shape; names both.
    """
    for theirs, ours in parameter_names(supernet).items():
        target = supernet.get_parameter(ours)
        if theirs not in tensors:
            raise ValueError(f"the checkpoint has no tensor {theirs!r} (for {ours})")
        if tensors[theirs].shape != target.shape:
            raise ValueError(
                f"{theirs} is {tuple(tensors[theirs].shape)}, {ours} needs {tuple(target.shape)}: "
                f"another search space than {supernet.space.name!r} or other than {supernet.classes} classes"
            )
        target.copy_(tensors[theirs])


def parameter_names(supernet: Supernet) -> dict[str, str]:
    """Published tensor name -> the supernet's. Blocks are numbered through all stages at their largest depth."""
    modules = dict(MODULES)
    places = [f"stages.{s}.{i}" for s, blocks in enumerate(supernet.stages) for i in range(len(blocks))]
    for index, place in enumerate(places):
        modules |= {f"blocks.{index}.{theirs}": f"{place}.{ours}" for theirs, ours in BLOCK_MODULES.items()}
    present = dict(supernet.named_parameters())
    pairs = ((f"{theirs}.{kind}", f"{ours}.{kind}") for theirs, ours in modules.items() for kind in ("weight", "bias"))
    return {theirs: ours for theirs, ours in pairs if ours in present}

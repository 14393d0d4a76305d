"""Weights of the published AttentiveNAS and AlphaNet checkpoints, read into a supernet of this project.

The files are the authors' (CC BY-NC, not distributed here). Only tensor names and shapes are known
to this module. `nas/spaces/attentive_nas.yaml` with 1000 classes is the space they fit.
"""

from pathlib import Path

import torch
from torch import Tensor

from nas.models.supernet import Supernet


def load_published(path: str | Path) -> dict[str, Tensor]:
    """Weight tensors of an authors' checkpoint file, by their published names; nothing is unpickled but tensors.

    Raises:
        ValueError: if the file holds no `state_dict` of such weights.
    """
    found = torch.load(path, map_location="cpu", weights_only=True)
    state = found.get("state_dict", found) if isinstance(found, dict) else None
    if not state or not any(name.endswith("first_conv.conv.conv.weight") for name in state):
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

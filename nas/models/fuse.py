"""Batch-norm folding: in eval mode a convolution and the batch norm after it are one affine map.

For y = gamma (W x - mean) / sqrt(var + eps) + beta the folded convolution has the weight W gamma / sqrt(var + eps)
and the bias beta - gamma mean / sqrt(var + eps), channel by channel (Jacob et al., arXiv:1712.05877, section 3.2).
"""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(network: nn.Module) -> nn.Module:
    """A copy of a network without batch norms: faster, and the same function up to rounding.

    Raises:
        ValueError: in training mode, where batch norm depends on the batch, and for a batch norm that follows no convolution.
    """
    if network.training:
        raise ValueError("batch norm can be folded in eval mode only; nas.evaluation.evaluate.calibrate leaves a network in eval mode")
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        previous = None
        for name, child in list(module.named_children()):  # in the order of use
            if isinstance(child, nn.BatchNorm2d):
                if previous is None or not isinstance(getattr(module, previous), nn.Conv2d):
                    raise ValueError(f"batch norm {name!r} of {type(module).__name__} follows no convolution")
                setattr(module, previous, fuse_conv_bn_eval(getattr(module, previous), child))
                setattr(module, name, nn.Identity())
            previous = name
    return folded

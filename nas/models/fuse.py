"""Batch norm folded into the convolution before it: in eval mode both together are one affine map of the input.

For y = gamma (W x - mean) / sqrt(var + eps) + beta the folded convolution has the weight W gamma / sqrt(var + eps)
and the bias beta - gamma mean / sqrt(var + eps), channel by channel (Jacob et al., arXiv:1712.05877, section 3.2).
"""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(network: nn.Module) -> nn.Module:
    """A copy of an extracted network without batch norms: faster, and to rounding the same function.

    Raises:
        ValueError: in training mode, where batch norms depend on the batch, and for a batch norm that follows no convolution.
    """
    if network.training:
        raise ValueError("only a network in eval mode can be folded; nas.evaluation.evaluate.calibrate leaves it in that")
    folded = copy.deepcopy(network)
    for module in list(folded.modules()):
        before = None
        for name, child in list(module.named_children()):  # in the order of use
            if isinstance(child, nn.BatchNorm2d):
                if before is None or not isinstance(getattr(module, before), nn.Conv2d):
                    raise ValueError(f"batch norm {name!r} of {type(module).__name__} follows no convolution: nothing to fold it into")
                setattr(module, before, fuse_conv_bn_eval(getattr(module, before), child))
                setattr(module, name, nn.Identity())
            before = name
    return folded

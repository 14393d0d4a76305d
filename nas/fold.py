"""Batch norm folded into the convolution before it: what an extracted network runs as once nothing is trained any more."""

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PAIRS = (  # convolution and its batch norm, in `nas.supernet.extract.Network` and `MBConv`
    ("stem", "stem_bn"),
    ("expand", "expand_bn"),
    ("depthwise", "depthwise_bn"),
    ("project", "project_bn"),
    ("head_expand", "head_bn"),
)


def fold(module: nn.Module) -> nn.Module:
    """A copy of an extracted network, or of a block of one, whose convolutions do what their batch norms did.

    The same outputs up to rounding; batch norms become `nn.Identity`. Calibrate first.

    Raises:
        ValueError: if the module is in training mode, where batch norm depends on the batch.
    """
    if module.training:
        raise ValueError("a network in training mode cannot be folded: its batch norms depend on the batch; calibrate it and call eval()")
    folded = copy.deepcopy(module)
    for part in folded.modules():
        for conv, norm in PAIRS:
            if isinstance(getattr(part, norm, None), nn.BatchNorm2d):
                setattr(part, conv, fuse_conv_bn_eval(getattr(part, conv), getattr(part, norm)))
                setattr(part, norm, nn.Identity())
    return folded

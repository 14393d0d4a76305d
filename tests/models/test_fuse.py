"""nas.models.fuse: batch norms folded into convolutions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas.models.extract import Network
from nas.models.fuse import fold
from nas.spaces.mbconv import SearchSpace


def calibrated(space: SearchSpace, arch, seed: int) -> Network:
    """In eval mode, with random batch norms."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(space, arch, 5)
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return network.eval()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_folded_network_is_the_same_function(tiny_space, seed):
    """In float64 the logits of any architecture agree to 1e-12 of their size."""
    network = calibrated(tiny_space, tiny_space.random(np.random.default_rng(seed)), seed).double()
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        before, after = network(images), fold(network)(images)
    assert torch.allclose(after, before, rtol=1e-12, atol=1e-12 * before.abs().max().item())


def test_folding_returns_a_copy_without_batch_norms(tiny_space):
    """The copy has none; the original does not change."""
    network = calibrated(tiny_space, tiny_space.largest(), 0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold(network)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_one_channel_by_hand():
    """W = 2, mean 1, variance 3 (eps 1), gamma 4, beta 5: weight 2 * 4 / 2 = 4, bias 5 - 4 * 1 / 2 = 3."""
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1.0)
    for tensor, value in ((conv.weight, 2), (norm.running_mean, 1), (norm.running_var, 3), (norm.weight, 4), (norm.bias, 5)):
        nn.init.constant_(tensor, value)
    folded = fold(nn.Sequential(conv, norm).eval())
    assert folded[0].weight.item() == pytest.approx(4) and folded[0].bias.item() == pytest.approx(3)


def test_a_network_in_training_mode_is_refused(tiny_space):
    """In training mode batch norms use the statistics of the batch."""
    with pytest.raises(ValueError, match="eval mode"):
        fold(Network(tiny_space, tiny_space.smallest(), 5))


def test_a_batch_norm_without_a_convolution_is_refused():
    """Dropping it would change the function."""
    with pytest.raises(ValueError, match="follows no convolution"):
        fold(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)).eval())

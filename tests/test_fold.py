"""Batch norm folded away: the same outputs, and nothing left of it."""

import pytest
import torch
from torch import nn

from nas.fold import fold
from nas.supernet.extract import MBConv, Network


def stirred(module: nn.Module) -> nn.Module:
    """In eval mode, with batch norms as far from doing nothing as trained ones."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.running_mean, -1, 1),
                (part.running_var, 0.3, 3),
                (part.weight.data, -2, 2),
                (part.bias.data, -1, 1),
            ):
                tensor.uniform_(low, high)
    return module.eval()


@pytest.fixture
def network(tiny_space) -> Network:
    torch.manual_seed(0)
    return stirred(Network(tiny_space, tiny_space.largest(), classes=5))


@torch.no_grad()
def test_a_folded_network_gives_the_same_logits(network):
    """In float64, to twelve digits."""
    network, images = network.double(), torch.randn(4, 3, 20, 20, dtype=torch.float64)
    torch.testing.assert_close(fold(network)(images), network(images), rtol=1e-12, atol=1e-12)


def test_no_batch_norm_is_left_and_the_original_stays(network):
    """All eight of a chain of stem, three kinds of norm in each block, and head are gone; the network given still has its own."""
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold(network)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 2 + 2 * 2 + 3 * 3  # mb1's two blocks do not expand


@torch.no_grad()
@pytest.mark.parametrize(("expansion", "se", "stride"), [(1, False, 1), (3, True, 2)])
def test_a_block_alone_can_be_folded(expansion, se, stride):
    """With and without expansion, squeeze-and-excitation and stride."""
    torch.manual_seed(1)
    block, x = stirred(MBConv(8, 16, 3, expansion, stride, se)).double(), torch.randn(2, 8, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(fold(block)(x), block(x), rtol=1e-12, atol=1e-12)


def test_folding_in_training_mode_is_refused(network):
    """Batch norm depends on the batch there; the message says what to do first."""
    with pytest.raises(ValueError, match="calibrate it and call eval"):
        fold(network.train())

"""AlphaNet's space: AttentiveNAS's without one width, with the same ends and all published networks."""

import math

import numpy as np
import pytest
import torch

from nas.cost import flops
from nas.models.supernet import Supernet
from nas.sampling.exact import ExactSampler
from nas.spaces import FOLDER, mbconv, published

ALPHA = mbconv.load(FOLDER / "alpha_net.yaml")
ATTENTIVE = mbconv.load(FOLDER / "attentive_nas.yaml")
TABLE = flops.table(ALPHA, classes=1000)


def test_size_of_alpha_net():
    """Table 7: resolutions, stem and head, widths, depths, kernels, expansions; and the dynamic programme agrees."""
    widths, depths, kernels, expansions = 2 * 2 * 2 * 2 * 2 * 4 * 2, 2 * 3 * 4 * 4 * 6 * 6 * 2, 2**7, 3**4

    assert ALPHA.size == 4 * (2 * 2) * widths * depths * kernels * expansions == 293_534_171_136
    assert ExactSampler(TABLE, step=25, bins=5000).count == ALPHA.size


def test_alpha_net_lacks_one_width():
    """It offers all values of AttentiveNAS's space except width 120 in MBConv-5."""
    missing = {a.name: set(b.choices) - set(a.choices) for a, b in zip(ALPHA.genes, ATTENTIVE.genes, strict=True) if a != b}

    assert missing == {"mb5.width": {120}}
    assert all(set(a.choices) <= set(b.choices) for a, b in zip(ALPHA.genes, ATTENTIVE.genes))


def test_ends_of_alpha_net():
    """The smallest and largest architectures, 203.390 and 1939.336 MFLOPs, are AttentiveNAS's and the extremes of cost."""
    assert (ALPHA.smallest(), ALPHA.largest()) == (ATTENTIVE.smallest(), ATTENTIVE.largest())
    assert TABLE.cost(ALPHA.smallest()) == TABLE.smallest == pytest.approx(203.390, abs=5e-4)
    assert TABLE.cost(ALPHA.largest()) == TABLE.largest == pytest.approx(1939.336, abs=5e-4)


@pytest.mark.parametrize("network", published.networks("attentive_nas"), ids=lambda network: network.name)
def test_published_networks_are_in_the_alpha_net_space(network):
    """None has width 120 in MBConv-5; their costs are the published ones."""
    assert network.arch in ALPHA
    assert TABLE.cost(network.arch) == pytest.approx(network.mflops, abs=5e-4)


def test_supernets_of_both_spaces_have_the_same_weights():
    """By name and shape, so checkpoints are interchangeable."""
    with torch.device("meta"):
        alpha, attentive = ({n: p.shape for n, p in Supernet(s, 1000).named_parameters()} for s in (ALPHA, ATTENTIVE))

    assert alpha == attentive


def test_a_draw_is_an_architecture_of_attentive_nas(rng):
    """The space is a subset of AttentiveNAS's, two thirds of it."""
    assert all(ALPHA.random(rng) in ATTENTIVE for _ in range(100))
    drawn = [ATTENTIVE.random(rng) in ALPHA for _ in range(900)]
    assert np.mean(drawn) == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / 900))

"""The published networks."""

import pytest

from nas.spaces import published
from nas.spaces.mbconv import load


def test_published_networks_are_in_the_paper_space():
    """All 15 choose only what Table 2 offers."""
    space = load(published.FOLDER / "attentive_nas.yaml")

    assert len(published.networks()) == 15
    assert all(network.arch in space for network in published.networks())


def test_smallest_network_is_a0():
    """AttentiveNAS-A0 is the smallest architecture of the space."""
    assert published.published("AttentiveNAS-A0") == load(published.FOLDER / "attentive_nas.yaml").smallest()


def test_accuracy_grows_with_cost_within_a_family():
    """Published top-1 and MFLOPs rise together from A0 to A6: the family is a Pareto front."""
    for family in ("AttentiveNAS", "AlphaNet"):
        models = [n for n in published.networks() if n.name.startswith(family)]
        assert [n.mflops for n in models] == sorted(n.mflops for n in models)
        assert [n.top1_imagenet for n in models] == sorted(n.top1_imagenet for n in models)


def test_unknown_network_lists_the_known():
    """A wrong name is answered with the right ones."""
    with pytest.raises(ValueError, match="AttentiveNAS-A6"):
        published.published("A6")

"""The published networks."""

import pytest

from nas import spaces
from nas.space import load


def test_published_networks_are_in_the_paper_space():
    """All 15 choose only what Table 2 offers."""
    space = load(spaces.FOLDER / "attentive_nas.yaml")

    assert len(spaces.networks()) == 15
    assert all(network.arch in space for network in spaces.networks())


def test_smallest_network_is_a0():
    """AttentiveNAS-A0 is the smallest architecture of the space."""
    assert spaces.published("AttentiveNAS-A0") == load(spaces.FOLDER / "attentive_nas.yaml").smallest()


def test_accuracy_grows_with_cost_within_a_family():
    """Published top-1 and MFLOPs rise together from A0 to A6: the family is a Pareto front."""
    for family in ("AttentiveNAS", "AlphaNet"):
        members = [n for n in spaces.networks() if n.name.startswith(family)]
        assert [n.mflops for n in members] == sorted(n.mflops for n in members)
        assert [n.top1_imagenet for n in members] == sorted(n.top1_imagenet for n in members)


def test_unknown_network_lists_the_known():
    """A wrong name is answered with the right ones."""
    with pytest.raises(ValueError, match="AttentiveNAS-A6"):
        spaces.published("A6")

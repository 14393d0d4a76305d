"""nas.spaces.published: published networks by family and name."""

import pytest

from nas.spaces import FOLDER, published
from nas.spaces.mbconv import load


def test_published_networks_are_in_the_paper_space():
    """All 15 take values that Table 2 offers."""
    space = load(FOLDER / "attentive_nas.yaml")

    assert len(published.networks("attentive_nas")) == 15
    assert all(network.arch in space for network in published.networks("attentive_nas"))


def test_smallest_network_is_a0():
    """AttentiveNAS-A0 is the smallest architecture of the space."""
    assert published.find("AttentiveNAS-A0").arch == load(FOLDER / "attentive_nas.yaml").smallest()


def test_accuracy_grows_with_cost_within_a_family():
    """Published top-1 and MFLOPs increase together from A0 to A6."""
    for family in ("AttentiveNAS", "AlphaNet"):
        models = [n for n in published.networks("attentive_nas") if n.name.startswith(family)]
        assert [n.mflops for n in models] == sorted(n.mflops for n in models)
        assert [n.top1_imagenet for n in models] == sorted(n.top1_imagenet for n in models)


def test_unknown_network_lists_the_known():
    """The message has all names of the family."""
    with pytest.raises(ValueError, match="AttentiveNAS-A6"):
        published.find("A6")


def test_unknown_family_lists_the_known():
    """The message has all families."""
    with pytest.raises(ValueError, match=r"no family 'ofa' of published networks; there are .*hardcore_nas"):
        published.networks("ofa")

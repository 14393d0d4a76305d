"""Chains: every piece is in one, and a chain is one that a network could hold."""

from pathlib import Path

import pytest

from nas.cost.flops import stage_sides
from nas.cost.latency import Block, Head, Stem, distinct
from nas.latency.chains import chains
from nas.spaces import mbconv

SPACES = sorted(p for p in Path(mbconv.__file__).parent.glob("*.yaml") if not p.name.startswith(("tf_nas", "hardcore_nas")))


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_every_piece_is_in_a_chain(path):
    """Of every space that ships, and nothing else is in one."""
    searched = mbconv.load(path)
    assert {piece for chain in chains(searched) for piece in chain} == set(distinct(searched))


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_chains_fit_together(path):
    """Each piece takes what the one before gives: channels, and the side that the strides before it lead to."""
    searched = mbconv.load(path)
    for chain in chains(searched):
        stem, *blocks, head = chain
        assert isinstance(stem, Stem) and isinstance(head, Head)
        sides = dict(zip([*(s.name for s in searched.stages), "head"], stage_sides(searched, stem.side)))
        after = dict(zip(sides, list(sides.values())[1:]))
        width = stem.width
        for block in blocks:
            assert isinstance(block, Block) and block.c_in == width
            assert block.side == (sides if block.first else after)[block.stage]
            width = block.width
        assert (head.c_in, head.side) == (width, sides["head"])


def test_there_are_not_many_more_chains_than_choices():
    """The paper's space: its widest stage, mb5, has 36 first blocks at each of 4 resolutions; 168 chains hold all 928 pieces."""
    searched = mbconv.load(SPACES[0].parent / "attentive_nas.yaml")
    assert len(distinct(searched)) == 928
    assert 4 * 36 <= len(chains(searched)) <= 1.2 * 4 * 36

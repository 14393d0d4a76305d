"""Parts are disjoint, stratified and the same each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.data.splits import PARTS, Parts, split_parts

FRACTIONS = {"test": 0.25, "predictor": 0.1, "search": 0.15, "val": 0.05}


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(60, 150), min_size=2, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_parts_are_disjoint_and_stratified(counts, seed):
    """Each image is in one part, and each class has its share of each part to within two images."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = Parts(split_parts(labels, **FRACTIONS, seed=seed))
    together = np.concatenate([parts.items(name) for name in PARTS])
    assert sorted(together) == list(range(len(labels)))
    rest = 1 - FRACTIONS["test"]
    shares = {"test": 0.25, **{name: rest * FRACTIONS[name] for name in ("predictor", "search", "val")}}
    for name, share in shares.items():
        assert len(parts.items(name)) == pytest.approx(share * len(labels), abs=1)
        assert np.abs(np.bincount(labels[parts.items(name)]) - share * np.array(counts)).max() <= 2


def test_the_seed_decides():
    """The same seed divides the same way, another one differently."""
    labels = np.arange(400) % 4
    first, again, other = (split_parts(labels, **FRACTIONS, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert (first != other).any()


def test_a_test_part_of_its_own_is_kept():
    """Where the set says what is for testing, that is the test part, and the fractions are of the rest."""
    labels, own = np.arange(600) % 3, np.arange(600) >= 400
    parts = Parts(split_parts(labels, **FRACTIONS, seed=0, own_test=own))
    assert np.array_equal(parts.items("test"), np.flatnonzero(own))
    assert parts.counts() == {"train": 280, "predictor": 40, "search": 60, "val": 20, "test": 200}


def test_transfer_sets_have_two_parts():
    """With fractions of 0 there are train and test only."""
    parts = Parts(split_parts(np.arange(100) % 5, test=0.25, predictor=0, search=0, val=0, seed=0))
    assert parts.counts() == {"train": 75, "test": 25}


def test_items_of_several_parts_are_their_union():
    """In order, without repeats."""
    parts = Parts(np.array(["train", "search", "test", "train", "val"]))
    assert parts.items("train", "search").tolist() == [0, 1, 3]
    assert parts.items("search").dtype == np.int64


@pytest.mark.parametrize("names", [(), ("val",), ("train", "tests")])
def test_unknown_parts_stop(names):
    """A part that is none is not an empty one."""
    with pytest.raises(ValueError, match="'train', 'predictor', 'search', 'val', 'test'"):
        Parts(np.array(["train"])).items(*names)


def test_an_empty_part_stops():
    """A part without images is told with what there is."""
    with pytest.raises(ValueError, match=r"no image is in val.*'train': 2"):
        Parts(np.array(["train", "train"])).items("val")


@settings(max_examples=60, deadline=None)
@given(small=st.integers(1, 25), large=st.integers(30, 200), seed=st.integers(0, 99))
def test_a_small_class_is_in_every_part_or_named(small, large, seed):
    """Either all parts hold all classes, or the message has the class, its count and the key."""
    labels = np.repeat([0, 1, 2], [large, small, large])
    try:
        parts = Parts(split_parts(labels, **FRACTIONS, seed=seed, classes=("cat", "dodo", "dog")))
    except ValueError as error:
        assert "'dodo' has" in str(error) and "params.yaml split" in str(error)
    else:
        assert all(set(labels[parts.items(name)]) == {0, 1, 2} for name in PARTS)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_four_cannot_be_in_five_parts(seed):
    """Four images are too few for five parts, whatever the seed."""
    with pytest.raises(ValueError, match="class 1 has"):
        split_parts(np.repeat([0, 1], [500, 4]), **FRACTIONS, seed=seed)


def test_fractions_that_leave_nothing_stop():
    """Predictor, search and val must not eat up what is to be trained on."""
    with pytest.raises(ValueError, match="nothing is left to train on"):
        split_parts(np.arange(100) % 2, test=0.2, predictor=0.5, search=0.3, val=0.2, seed=0)

"""Parts are disjoint, stratified and reproducible."""

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
    together = np.concatenate([parts.indices(name) for name in PARTS])
    assert sorted(together) == list(range(len(labels)))
    rest = 1 - FRACTIONS["test"]
    shares = {"test": 0.25, **{name: rest * FRACTIONS[name] for name in ("predictor", "search", "val")}}
    for name, share in shares.items():
        assert len(parts.indices(name)) == pytest.approx(share * len(labels), abs=1)
        assert np.abs(np.bincount(labels[parts.indices(name)]) - share * np.array(counts)).max() <= 2


def test_the_seed_decides_the_split():
    """The same seed gives the same split, another seed a different one."""
    labels = np.arange(400) % 4
    first, second, other = (split_parts(labels, **FRACTIONS, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert (first != other).any()


def test_a_datasets_own_test_part_is_used():
    """The dataset's own test images are the test part, and the fractions apply to the others."""
    labels, own = np.arange(600) % 3, np.arange(600) >= 400
    parts = Parts(split_parts(labels, **FRACTIONS, seed=0, own_test=own))
    assert np.array_equal(parts.indices("test"), np.flatnonzero(own))
    assert parts.counts() == {"train": 280, "predictor": 40, "search": 60, "val": 20, "test": 200}


def test_transfer_datasets_have_two_parts():
    """Fractions of 0 leave train and test."""
    parts = Parts(split_parts(np.arange(100) % 5, test=0.25, predictor=0, search=0, val=0, seed=0))
    assert parts.counts() == {"train": 75, "test": 25}


def test_indices_of_several_parts_are_their_union():
    """The indices are ascending and unique."""
    parts = Parts(np.array(["train", "search", "test", "train", "val"]))
    assert parts.indices("train", "search").tolist() == [0, 1, 3]
    assert parts.indices("search").dtype == np.int64


@pytest.mark.parametrize("names", [(), ("validation",), ("train", "tests")])
def test_unknown_parts_are_an_error(names):
    """An unknown part is not treated as an empty one."""
    with pytest.raises(ValueError, match="'train', 'predictor', 'search', 'val', 'test'"):
        Parts(np.array(["train"])).indices(*names)


def test_an_empty_part_is_an_error():
    """The message lists the parts that have images."""
    with pytest.raises(ValueError, match=r"no image is in val.*'train': 2"):
        Parts(np.array(["train", "train"])).indices("val")


@settings(max_examples=60, deadline=None)
@given(small=st.integers(1, 25), large=st.integers(30, 200), seed=st.integers(0, 99))
def test_a_small_class_is_in_every_part_or_named(small, large, seed):
    """Either all parts have all classes, or the error names the class and the key."""
    labels = np.repeat([0, 1, 2], [large, small, large])
    try:
        parts = Parts(split_parts(labels, **FRACTIONS, seed=seed, classes=("cat", "dodo", "dog")))
    except ValueError as error:
        assert "'dodo' has" in str(error) and "params.yaml split" in str(error)
    else:
        assert all(set(labels[parts.indices(name)]) == {0, 1, 2} for name in PARTS)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_four_cannot_be_in_five_parts(seed):
    """Four images are too few for five parts, whatever the seed."""
    with pytest.raises(ValueError, match="class 1 has"):
        split_parts(np.repeat([0, 1], [500, 4]), **FRACTIONS, seed=seed)


def test_fractions_that_leave_no_training_images_are_an_error():
    """Predictor, search and val must leave training images."""
    with pytest.raises(ValueError, match="nothing is left to train on"):
        split_parts(np.arange(100) % 2, test=0.2, predictor=0.5, search=0.3, val=0.2, seed=0)

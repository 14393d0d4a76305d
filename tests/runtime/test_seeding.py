"""Counter-based randomness: the same place gives the same numbers, another place different ones."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.runtime import seeding

places = st.lists(st.one_of(st.integers(0, 2**31), st.text(max_size=8)), max_size=4).map(tuple)


@given(st.integers(0, 2**32), places)
def test_a_place_determines_the_numbers(seed, place):
    """The numbers are the same after other draws; they differ in the next step and for another seed."""
    first = seeding.generator(seed, *place).integers(2**63, size=4)
    seeding.generator(seed + 1, *place).random(10)
    assert np.array_equal(seeding.generator(seed, *place).integers(2**63, size=4), first)
    assert not np.array_equal(seeding.generator(seed, *place, 1).integers(2**63, size=4), first)
    assert not np.array_equal(seeding.generator(seed + 1, *place).integers(2**63, size=4), first)


def test_numbers_do_not_change_between_processes():
    """Strings enter by CRC-32 (3421780262 for '123456789', the standard's check value), not by Python's salted hash."""
    assert seeding.generator(7, "123456789", 2).random() == np.random.default_rng([7, 2, 3421780262, 2]).random()


def test_a_trailing_zero_is_another_place():
    """numpy ignores trailing zeros of a seed; places do not."""
    assert seeding.generator(0, "a").random() != seeding.generator(0, "a", 0).random()


def test_the_global_state_stays_unchanged():
    """Neither generators nor keys change numpy's global generator."""
    before = np.random.get_state()[1].copy()
    seeding.generator(0, "a").random()
    seeding.key(0, "a")
    assert np.array_equal(np.random.get_state()[1], before)


def test_keys_are_uniform_over_63_bits():
    """Keys of 2000 epochs are all different and uniform in [0, 2^63) (Kolmogorov-Smirnov)."""
    keys = [seeding.key(0, "train", "regularisation", epoch) for epoch in range(2000)]
    assert len(set(keys)) == 2000 and min(keys) >= 0 and max(keys) < 2**63
    assert stats.kstest(np.array(keys) / 2**63, "uniform").pvalue > 0.001

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.cost.latency_tf_nas import Curve, LatencyTable, operators
from nas.differentiable.tf_nas.scaling import bound, scale, step
from nas.spaces import FOLDER, tf_nas
from nas.spaces.tf_nas import Arch, Space
from tests.differentiable.tf_nas.tiny import TINY, random_choice


def rising(seed: int, of: Space = TINY) -> LatencyTable:
    """A table in which wider is always slower."""
    rng, curves = np.random.default_rng(seed), {}
    for key, (low, high) in operators(of).items():
        hidden = tuple(sorted({low, (low + high) // 2, high}))
        curves[key] = Curve(hidden=hidden, latency_ms=tuple(rng.uniform(0.1, 1.0, 3).cumsum().tolist()), spread=(0.0,) * 3)
    return LatencyTable(of, 5, curves, 1.0)


def with_widths(choice: Arch, which: int, of: Space = TINY) -> Arch:
    """The same operations with their least (0) or most (1) hidden channels."""
    bound = of.bounds()[which]
    return Arch(choice.operations, choice.depths, tuple(int(bound[i, o]) for i, o in enumerate(choice.operations)))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_the_target_is_met_to_a_channel(seed, share):
    """Where the bounds allow it the network is not slower than the target, and no round of the last stage's could be added."""
    table, (choice, _) = rising(seed), random_choice(TINY, np.random.default_rng(seed))
    cheapest, most_expensive = (table.latency_ms(with_widths(choice, which)) for which in (0, 1))
    target = cheapest + share * (most_expensive - cheapest)
    found = scale(table, choice, target)
    assert bound(table, found, target) is None and table.latency_ms(found) <= target
    last = step(table, found, [1], +1)
    assert last == found or table.latency_ms(last) > target


@pytest.mark.parametrize("name", ["tf_nas_glyphs.yaml", "tf_nas_efficientnet_b0.yaml"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_one_channel_more_in_the_last_stage_crosses_the_target(name, share):
    """In spaces whose last stage has one layer, as the paper's; unless that layer is as wide as it may be."""
    searched = tf_nas.load(FOLDER / name)
    last, most, tested = len(searched.layers) - 1, searched.bounds()[1], 0
    assert searched.layers[last].index == 0
    for seed in range(5):
        table, (choice, _) = rising(seed, searched), random_choice(searched, np.random.default_rng(seed))
        cheapest, most_expensive = (table.latency_ms(with_widths(choice, which, searched)) for which in (0, 1))
        target = cheapest + share * (most_expensive - cheapest)
        found = scale(table, choice, target)
        if found.widths[last] < most[last, found.operations[last]]:
            wider = replace(found, widths=(*found.widths[:last], found.widths[last] + 1))
            assert table.latency_ms(found) <= target < table.latency_ms(wider)
            tested += 1
    assert tested


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_bounds_are_told(seed, fast):
    """A target that no width reaches leaves all widths at a bound, and which one is said."""
    table, (choice, _) = rising(seed), random_choice(TINY, np.random.default_rng(seed))
    ends = [with_widths(choice, which) for which in (0, 1)]
    target = table.latency_ms(ends[0]) * 0.9 if fast else table.latency_ms(ends[1]) * 1.1
    found, used = scale(table, choice, target), TINY.active_layers(choice.depths)
    assert bound(table, found, target) == ("least" if fast else "most")
    assert [found.widths[i] for i in used] == [ends[0 if fast else 1].widths[i] for i in used]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_scaling_again_changes_nothing_more(seed):
    """A network that was scaled is at most a step away from where scaling it again for the same target leads."""
    table, (choice, _) = rising(seed), random_choice(TINY, np.random.default_rng(seed))
    target = (table.latency_ms(with_widths(choice, 0)) + table.latency_ms(with_widths(choice, 1))) / 2
    once = scale(table, choice, target)
    twice = scale(table, once, target)
    assert table.latency_ms(once) <= table.latency_ms(twice) <= target


def test_one_round_by_hand():
    """The narrowest layer by a channel, one of 2.6 times its width by three; at their bounds not at all; unused ones never."""
    choice = Arch((0, 1, 0, 0, 0), (2, 1), (10, 26, 16, 12, 12))
    table = rising(0)
    assert step(table, choice, [0, 1], +1).widths == (11, 29, 16, 12, 12)
    assert step(table, choice, [0, 1], -1).widths == (9, 23, 14, 12, 12)
    assert step(table, choice, [1], -1).widths == (10, 26, 15, 12, 12)


def test_operations_and_depths_stay():
    """Only widths of used layers change."""
    choice = Arch((0, 1, 2, 0, 1), (1, 2), (12, 20, 20, 20, 30))
    found = scale(rising(1), choice, 2.5)
    assert (found.operations, found.depths) == (choice.operations, choice.depths)
    assert (found.widths[1], found.widths[4]) == (20, 30)

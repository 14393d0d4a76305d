"""nas.differentiable.tf_nas.scaling: architectures scaled to a target latency."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.differentiable.tf_nas.scaling import bound, scale, step
from nas.spaces import FOLDER, tf_nas
from nas.spaces.tf_nas import Arch
from tests.differentiable.tf_nas.tiny import TINY, random_arch, rising_table, with_widths


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_a_scaled_architecture_uses_the_target_up(seed, share):
    """Within the bounds it is not slower than the target, and one more step of the last stage would be."""
    table, (arch, _) = rising_table(seed), random_arch(TINY, np.random.default_rng(seed))
    cheapest, most_expensive = (table.latency_ms(with_widths(arch, end)) for end in (0, 1))
    target = cheapest + share * (most_expensive - cheapest)
    scaled = scale(table, arch, target)
    assert bound(table, scaled, target) is None and table.latency_ms(scaled) <= target
    last = step(table, scaled, [1], +1)
    assert last == scaled or table.latency_ms(last) > target


@pytest.mark.parametrize("name", ["tf_nas_glyphs.yaml", "tf_nas_efficientnet_b0.yaml"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_one_channel_more_in_the_last_stage_crosses_the_target(name, share):
    """In spaces whose last stage has one layer, like the paper's, unless that layer has its most channels."""
    space = tf_nas.load(FOLDER / name)
    last, most, tested = len(space.layers) - 1, space.bounds()[1], 0
    assert space.layers[last].index == 0
    for seed in range(5):
        table, (arch, _) = rising_table(seed, space), random_arch(space, np.random.default_rng(seed))
        cheapest, most_expensive = (table.latency_ms(with_widths(arch, end, space)) for end in (0, 1))
        target = cheapest + share * (most_expensive - cheapest)
        scaled = scale(table, arch, target)
        if scaled.widths[last] < most[last, scaled.operations[last]]:
            wider = replace(scaled, widths=(*scaled.widths[:last], scaled.widths[last] + 1))
            assert table.latency_ms(scaled) <= target < table.latency_ms(wider)
            tested += 1
    assert tested


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_bound_names_the_end_that_widths_reach(seed, fast):
    """A target that no width meets leaves all widths at a bound, and `bound` names it."""
    table, (arch, _) = rising_table(seed), random_arch(TINY, np.random.default_rng(seed))
    ends = [with_widths(arch, end) for end in (0, 1)]
    target = table.latency_ms(ends[0]) * 0.9 if fast else table.latency_ms(ends[1]) * 1.1
    scaled, active = scale(table, arch, target), TINY.active_layers(arch.depths)
    assert bound(table, scaled, target) == ("least" if fast else "most")
    assert [scaled.widths[i] for i in active] == [ends[0 if fast else 1].widths[i] for i in active]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_scaling_twice_stays_within_the_target(seed):
    """Scaling again for the same target never makes the architecture faster."""
    table, (arch, _) = rising_table(seed), random_arch(TINY, np.random.default_rng(seed))
    target = (table.latency_ms(with_widths(arch, 0)) + table.latency_ms(with_widths(arch, 1))) / 2
    once = scale(table, arch, target)
    twice = scale(table, once, target)
    assert table.latency_ms(once) <= table.latency_ms(twice) <= target


def test_one_step_by_hand():
    """The narrowest layer changes by one channel, one 2.6 times as wide by three; layers at a bound or beyond the depth do not."""
    arch = Arch((0, 1, 0, 0, 0), (2, 1), (10, 26, 16, 12, 12))
    table = rising_table(0)
    assert step(table, arch, [0, 1], +1).widths == (11, 29, 16, 12, 12)
    assert step(table, arch, [0, 1], -1).widths == (9, 23, 14, 12, 12)
    assert step(table, arch, [1], -1).widths == (10, 26, 15, 12, 12)


def test_scaling_changes_widths_only():
    """Operations, depths and the widths of layers beyond the depth stay."""
    arch = Arch((0, 1, 2, 0, 1), (1, 2), (12, 20, 20, 20, 30))
    scaled = scale(rising_table(1), arch, 2.5)
    assert (scaled.operations, scaled.depths) == (arch.operations, arch.depths)
    assert (scaled.widths[1], scaled.widths[4]) == (20, 30)

"""nas.differentiable.hardcore_nas.start: the most even point within a target."""

from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency_hardcore_nas import Latency
from nas.differentiable.hardcore_nas.start import balanced, smallest


@pytest.fixture
def latency(rng) -> Latency:
    return Latency(0.5, rng.uniform(0.1, 2, (2, 3, 4)), np.array([[True, True, True], [False, True, True]]))


def test_no_distribution_over_networks_within_the_target_is_nearer_to_uniform_draws(rng):
    """Of a single stage, all networks listed: the same probabilities as the optimum by duality, for several targets."""
    latency = Latency(0.5, rng.uniform(0.1, 2, (1, 3, 3)), np.array([[True, True, True]]))
    archs = [c for d in (1, 2, 3) for c in product(range(3), repeat=d)]
    uniform = np.array([1 / 3 / 3 ** len(a) for a in archs])
    cost = np.array([latency.of((a,)) for a in archs])
    low, even = cost.min(), (uniform * cost).sum()
    for target in np.linspace(low, even, 7)[1:-1]:
        dual = minimize_scalar(
            lambda tilt, target=target: logsumexp(-tilt * (cost - target), b=uniform),
            bounds=(0, 1000),
            options={"xatol": 1e-12},
        )
        expected = uniform * np.exp(-dual.x * (cost - low))
        point = balanced(latency, target, 1)
        found = [point.beta[0, len(a) - 1] * np.prod([point.alpha[0, b, c] for b, c in enumerate(a)]) for a in archs]
        assert found == pytest.approx(expected / expected.sum(), rel=1e-4)


@pytest.mark.parametrize("share", [1e-9, 0.01, 0.1, 0.3, 0.7, 1])
def test_the_start_is_within_the_target_and_leaves_nothing_out(latency, share):
    """The target is met to rounding; every offered choice is possible, however tight the target is."""
    low, high = latency.range_ms
    target = low + share * (high - low)
    point = balanced(latency, target, 1)
    assert latency(point) <= target
    assert point.alpha.sum(2) == pytest.approx(np.ones((2, 3)))
    assert point.beta.sum(1) == pytest.approx(np.ones(2))
    assert not point.beta[~latency.offered].any()
    if share > 1e-3:
        assert point.alpha.min() > 0
        assert point.beta[latency.offered].min() > 0


def test_a_wide_target_gives_the_uniform_point(latency):
    """Depths and configurations alike."""
    point = balanced(latency, latency.range_ms[1], 1)
    assert point.alpha == pytest.approx(np.full((2, 3, 4), 1 / 4))
    assert point.beta == pytest.approx(np.array([[1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]]))


def test_the_tightest_target_gives_the_fastest_network(latency):
    """Its latency is the low end of the range."""
    low = latency.range_ms[0]
    assert latency(smallest(latency)) == pytest.approx(low, rel=1e-12)
    assert latency(balanced(latency, low, 1)) == pytest.approx(low, rel=1e-12)


def test_a_target_below_the_fastest_network_is_refused(latency):
    """By an error of its own."""
    with pytest.raises(InfeasibleTarget):
        balanced(latency, latency.range_ms[0] - 0.01, 1)


def test_a_share_of_the_target_leaves_room(latency):
    """A quarter of the way from the fastest network to the target; none of it is the fastest network."""
    low, high = latency.range_ms
    target = low + 0.4 * (high - low)
    assert latency(balanced(latency, target, 0.25)) == pytest.approx(low + 0.1 * (high - low), rel=1e-9)
    assert latency(balanced(latency, target, 0)) == pytest.approx(low, rel=1e-12)


def test_equal_blocks_get_equal_probabilities():
    """All entries alike: only the depth is tilted."""
    latency = Latency(0.0, np.ones((1, 2, 3)), np.array([[True, True]]))
    point = balanced(latency, 1.25, 1)
    assert point.alpha == pytest.approx(np.full((1, 2, 3), 1 / 3))
    assert point.beta == pytest.approx(np.array([[0.75, 0.25]]))

"""nas.differentiable.hardcore_nas.relaxed: the latency of probabilities."""

from itertools import product

import numpy as np
import pytest

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency_hardcore_nas import Latency
from nas.differentiable.hardcore_nas.relaxed import Point, certain, one_hot
from nas.spaces.hardcore_nas import Arch


@pytest.fixture
def latency(rng) -> Latency:
    """Two stages of 1 to 3 and of 2 or 3 blocks, two configurations."""
    return Latency(1.5, rng.uniform(0.1, 2, (2, 3, 2)), np.array([[True, True, True], [False, True, True]]))


@pytest.fixture
def archs(latency) -> list[Arch]:
    """All of them: (2 + 4 + 8) * (4 + 8)."""
    stages = [[c for d in np.flatnonzero(row) for c in product(range(2), repeat=1 + int(d))] for row in latency.offered]
    return [Arch(arch) for arch in product(*stages)]


def random_point(latency: Latency, rng: np.random.Generator) -> Point:
    alpha, beta = rng.uniform(size=latency.blocks_ms.shape), rng.uniform(size=latency.offered.shape) * latency.offered
    return Point(alpha / alpha.sum(2, keepdims=True), beta / beta.sum(1, keepdims=True))


def probability(point: Point, arch: Arch) -> float:
    """Of drawing this network: that of each stage's depth times those of its blocks."""
    return float(
        np.prod(
            [point.beta[s, len(stage) - 1] * np.prod([point.alpha[s, b, c] for b, c in enumerate(stage)]) for s, stage in enumerate(arch)]
        )
    )


def test_the_bilinear_latency_is_the_expectation_over_networks(latency, archs, rng):
    """Summed over all 168 networks, each with its probability."""
    assert len(archs) == 168
    for _ in range(20):
        point = random_point(latency, rng)
        shares = [probability(point, arch) for arch in archs]
        assert sum(shares) == pytest.approx(1, rel=1e-12)
        assert latency(point) == pytest.approx(sum(p * latency.of(a) for p, a in zip(shares, archs)), rel=1e-12)


def test_the_latency_of_a_certain_network_is_its_sum(latency, archs):
    """And the network is found again from its point."""
    for arch in archs:
        assert latency(one_hot(latency, arch)) == pytest.approx(latency.of(arch), rel=1e-12)
        assert certain(one_hot(latency, arch)) == arch


def test_the_latency_is_linear_in_each_kind_of_choice(latency, rng):
    """What the linear programmes take as costs, times the choices, is the latency."""
    point = random_point(latency, rng)
    assert latency.fixed_ms + (latency.of_configurations(point.beta) * point.alpha).sum() == pytest.approx(latency(point), rel=1e-12)
    depths = np.where(latency.offered, latency.of_depths(point.alpha), 0)
    assert latency.fixed_ms + (depths * point.beta).sum() == pytest.approx(latency(point), rel=1e-12)


def test_the_range_is_that_of_all_networks(latency, archs):
    """Fastest and slowest by listing them."""
    assert latency.range_ms == pytest.approx((min(map(latency.of, archs)), max(map(latency.of, archs))), rel=1e-12)


@pytest.mark.parametrize("target_ms", [0.025, 1e4])
def test_a_target_outside_the_range_is_refused_with_both_ends(latency, target_ms):
    """Milliseconds for seconds, as users of the release had it, or the other way round."""
    low, high = latency.range_ms
    with pytest.raises(
        InfeasibleTarget, match=f"{target_ms:g} ms; the achievable range is {low:.6g} to {high:.6g} ms; change search.targets"
    ):
        latency.check(target_ms)


@pytest.mark.parametrize("entry", [-0.1, np.nan, np.inf])
def test_an_impossible_entry_of_the_table_is_refused(entry):
    """A block takes at least nothing."""
    with pytest.raises(ValueError, match="milliseconds have to be finite"):
        Latency(1.0, np.full((1, 1, 2), entry), np.ones((1, 1), bool))


def test_a_stage_without_a_depth_is_refused():
    """Nothing could be chosen."""
    with pytest.raises(ValueError, match="none of a space"):
        Latency(1.0, np.ones((1, 2, 2)), np.zeros((1, 2), bool))

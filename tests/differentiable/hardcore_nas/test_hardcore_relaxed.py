"""nas.differentiable.hardcore_nas.relaxed: expected latency, sampling, and the start of largest entropy."""

from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.differentiable.hardcore_nas.relaxed import RelaxedArch, discretize, fastest, max_entropy_start, one_hot, sample_one_hot
from nas.spaces.hardcore_nas import Arch


@pytest.fixture
def latency(rng) -> ExpectedLatency:
    """Two stages of 1 to 3 and of 2 or 3 blocks, two configurations."""
    return ExpectedLatency(1.5, rng.uniform(0.1, 2, (2, 3, 2)), np.array([[True, True, True], [False, True, True]]))


@pytest.fixture
def four_latency(rng) -> ExpectedLatency:
    """The same depths, four configurations."""
    return ExpectedLatency(0.5, rng.uniform(0.1, 2, (2, 3, 4)), np.array([[True, True, True], [False, True, True]]))


@pytest.fixture
def archs(latency) -> list[Arch]:
    """All (2 + 4 + 8) * (4 + 8) architectures."""
    stages = [[c for d in np.flatnonzero(row) for c in product(range(2), repeat=1 + int(d))] for row in latency.offered]
    return [Arch(arch) for arch in product(*stages)]


def random_relaxed(latency: ExpectedLatency, rng: np.random.Generator) -> RelaxedArch:
    alpha, beta = rng.uniform(size=latency.blocks_ms.shape), rng.uniform(size=latency.offered.shape) * latency.offered
    return RelaxedArch(alpha / alpha.sum(2, keepdims=True), beta / beta.sum(1, keepdims=True))


def probability(relaxed: RelaxedArch, arch: Arch) -> float:
    """Probability of drawing this network: product over the depths of stages and the configurations of their blocks."""
    stages = [
        relaxed.beta[s, len(stage) - 1] * np.prod([relaxed.alpha[s, b, c] for b, c in enumerate(stage)]) for s, stage in enumerate(arch)
    ]
    return float(np.prod(stages))


def test_the_bilinear_latency_is_the_expectation_over_networks(latency, archs, rng):
    """Summed over all 168 networks, each with its probability."""
    assert len(archs) == 168
    for _ in range(20):
        relaxed = random_relaxed(latency, rng)
        probabilities = [probability(relaxed, arch) for arch in archs]
        assert sum(probabilities) == pytest.approx(1, rel=1e-12)
        assert latency(relaxed) == pytest.approx(sum(p * latency.of(a) for p, a in zip(probabilities, archs)), rel=1e-12)


def test_a_one_hot_latency_is_the_sum_of_entries(latency, archs):
    """And `discretize` inverts `one_hot`."""
    for arch in archs:
        assert latency(one_hot(latency, arch)) == pytest.approx(latency.of(arch), rel=1e-12)
        assert discretize(one_hot(latency, arch)) == arch


def test_the_latency_is_linear_in_each_kind_of_choice(latency, rng):
    """The costs of the linear programmes times the probabilities are the latency."""
    relaxed = random_relaxed(latency, rng)
    assert latency.fixed_latency_ms + (latency.of_configurations(relaxed.beta) * relaxed.alpha).sum() == pytest.approx(
        latency(relaxed), rel=1e-12
    )
    depths = np.where(latency.offered, latency.of_depths(relaxed.alpha), 0)
    assert latency.fixed_latency_ms + (depths * relaxed.beta).sum() == pytest.approx(latency(relaxed), rel=1e-12)


def test_the_range_is_that_of_all_networks(latency, archs):
    """Against the enumeration of all networks."""
    assert latency.range_ms == pytest.approx((min(map(latency.of, archs)), max(map(latency.of, archs))), rel=1e-12)


@pytest.mark.parametrize("target_ms", [0.025, 1e4])
def test_a_target_outside_the_range_is_refused_with_both_ends(latency, target_ms):
    """Milliseconds given as seconds, or the other way round."""
    low, high = latency.range_ms
    with pytest.raises(
        InfeasibleTarget, match=f"{target_ms:g} ms; the achievable range is {low:.6g} to {high:.6g} ms; change search.targets"
    ):
        latency.check(target_ms)


@pytest.mark.parametrize("entry", [-0.1, np.nan, np.inf])
def test_an_impossible_entry_of_the_table_is_refused(entry):
    """Negative, NaN and infinite latencies."""
    with pytest.raises(ValueError, match="latencies have to be finite"):
        ExpectedLatency(1.0, np.full((1, 1, 2), entry), np.ones((1, 1), bool))


def test_a_stage_without_a_depth_is_refused():
    """No architecture would exist."""
    with pytest.raises(ValueError, match="fits no space"):
        ExpectedLatency(1.0, np.ones((1, 2, 2)), np.zeros((1, 2), bool))


def test_choices_are_drawn_by_their_probability():
    """Shares over 20,000 draws; a choice of probability 0 is never drawn."""
    relaxed = RelaxedArch(np.array([[[0.0, 0.25, 0.75, 0.0]]]), np.array([[1.0]]))
    alpha, beta = sample_one_hot(relaxed, 20_000, np.random.default_rng(0))
    assert alpha.mean(0)[0, 0] == pytest.approx([0, 0.25, 0.75, 0], abs=0.01)
    assert (alpha[:, 0, 0, [0, 3]] == 0).all()
    assert (beta == 1).all()


def test_the_start_has_the_largest_relative_entropy_within_the_target(rng):
    """On a single stage with all networks enumerated, it equals the optimum by duality, for several targets."""
    latency = ExpectedLatency(0.5, rng.uniform(0.1, 2, (1, 3, 3)), np.array([[True, True, True]]))
    archs = [c for d in (1, 2, 3) for c in product(range(3), repeat=d)]
    uniform = np.array([1 / 3 / 3 ** len(a) for a in archs])
    cost = np.array([latency.of((a,)) for a in archs])
    low, even = cost.min(), (uniform * cost).sum()
    for target in np.linspace(low, even, 7)[1:-1]:
        dual = minimize_scalar(
            lambda multiplier, target=target: logsumexp(-multiplier * (cost - target), b=uniform),
            bounds=(0, 1000),
            options={"xatol": 1e-12},
        )
        expected = uniform * np.exp(-dual.x * (cost - low))
        relaxed = max_entropy_start(latency, target, 1)
        probabilities = [relaxed.beta[0, len(a) - 1] * np.prod([relaxed.alpha[0, b, c] for b, c in enumerate(a)]) for a in archs]
        assert probabilities == pytest.approx(expected / expected.sum(), rel=1e-4)


@pytest.mark.parametrize("share", [1e-9, 0.01, 0.1, 0.3, 0.7, 1])
def test_the_start_is_within_the_target_and_has_all_choices(four_latency, share):
    """The target is met up to rounding; every offered choice has a probability above 0, even for tight targets."""
    low, high = four_latency.range_ms
    target = low + share * (high - low)
    relaxed = max_entropy_start(four_latency, target, 1)
    assert four_latency(relaxed) <= target
    assert relaxed.alpha.sum(2) == pytest.approx(np.ones((2, 3)))
    assert relaxed.beta.sum(1) == pytest.approx(np.ones(2))
    assert not relaxed.beta[~four_latency.offered].any()
    if share > 1e-3:
        assert relaxed.alpha.min() > 0
        assert relaxed.beta[four_latency.offered].min() > 0


def test_a_loose_target_gives_the_uniform_distribution(four_latency):
    """Uniform over depths and over configurations."""
    relaxed = max_entropy_start(four_latency, four_latency.range_ms[1], 1)
    assert relaxed.alpha == pytest.approx(np.full((2, 3, 4), 1 / 4))
    assert relaxed.beta == pytest.approx(np.array([[1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]]))


def test_the_tightest_target_gives_the_fastest_network(four_latency):
    """Its four_latency is the low end of the range."""
    low = four_latency.range_ms[0]
    assert four_latency(fastest(four_latency)) == pytest.approx(low, rel=1e-12)
    assert four_latency(max_entropy_start(four_latency, low, 1)) == pytest.approx(low, rel=1e-12)


def test_a_target_below_the_fastest_network_is_refused(four_latency):
    """With InfeasibleTarget."""
    with pytest.raises(InfeasibleTarget):
        max_entropy_start(four_latency, four_latency.range_ms[0] - 0.01, 1)


def test_a_share_of_the_target_leaves_room(four_latency):
    """A quarter of the way from the fastest network to the target; share 0 is the fastest network."""
    low, high = four_latency.range_ms
    target = low + 0.4 * (high - low)
    assert four_latency(max_entropy_start(four_latency, target, 0.25)) == pytest.approx(low + 0.1 * (high - low), rel=1e-9)
    assert four_latency(max_entropy_start(four_latency, target, 0)) == pytest.approx(low, rel=1e-12)


def test_equal_blocks_get_equal_probabilities():
    """With equal entries, only the probabilities of depths depend on the target."""
    latency = ExpectedLatency(0.0, np.ones((1, 2, 3)), np.array([[True, True]]))
    relaxed = max_entropy_start(latency, 1.25, 1)
    assert relaxed.alpha == pytest.approx(np.full((1, 2, 3), 1 / 3))
    assert relaxed.beta == pytest.approx(np.array([[0.75, 0.25]]))

"""Sampling under a target: uniform on an enumerated space, and the paper's space against published numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nas.cost import flops
from nas.sampling.exact import Counter, ExactSampler
from nas.sampling.factorised import FactorisedSampler, trials_study
from nas.sampling.target import Buckets, UnderTarget, reject
from nas.sampling.uniform import RejectionSampler, uniform_trials
from nas.spaces import FOLDER, encoding, published
from nas.spaces.mbconv import load

STEP = 0.02  # MFLOPs, in tiny_space


@pytest.fixture(scope="module")
def tiny_table(tiny_space):
    return flops.table(tiny_space, classes=10)


@pytest.fixture(scope="module")
def coarse(tiny_table):
    """So few bins that rounding moves architectures across edges and rejection must put it right."""
    return ExactSampler(tiny_table, STEP, bins=25)


@pytest.fixture(scope="module")
def paper_table():
    return flops.table(load(FOLDER / "attentive_nas.yaml"), classes=1000)


@pytest.fixture(scope="module")
def paper(paper_table):
    return ExactSampler(paper_table, step=25)


@pytest.fixture(scope="module")
def factorised(paper_table):
    return FactorisedSampler(paper_table, step=25, pool=200_000, rng=np.random.default_rng(1))


@pytest.mark.parametrize("bins", [25, 100_000])
def test_exact_sampler_is_uniform_in_its_bucket(tiny_table, tiny_rows, bins, rng):
    """Chi-square of 100 draws per architecture against the enumerated bucket, in the fullest bucket and one at the edge."""
    sampler = ExactSampler(tiny_table, STEP, bins)
    bucket = Buckets(STEP).of(tiny_table.costs(tiny_rows))
    targets, counts = sampler.counts
    for target in (targets[counts.argmax()], targets[3]):
        models = tiny_rows[bucket == round(target / STEP)]
        drawn = sampler.draw(target, 100 * len(models), rng).rows
        rows, times = np.unique(drawn, axis=0, return_counts=True)

        assert np.array_equal(rows, np.unique(models, axis=0))
        assert chisquare(times).pvalue > 1e-3


def test_exact_sampler_is_uniform_between_bounds(tiny_table, tiny_rows, coarse, rng):
    """Chi-square for an interval that is no bucket, both ends included."""
    costs = np.sort(tiny_table.costs(tiny_rows))
    low, high = costs[200], costs[400]
    models = tiny_rows[(tiny_table.costs(tiny_rows) >= low) & (tiny_table.costs(tiny_rows) <= high)]
    rows, times = np.unique(coarse.draw_between(low, high, 100 * len(models), rng).rows, axis=0, return_counts=True)

    assert np.array_equal(rows, np.unique(models, axis=0))
    assert chisquare(times).pvalue > 1e-3


def test_prior_is_the_share_of_the_listed_space(tiny_table, tiny_rows, coarse):
    """Targets and counts equal a histogram of all 2304 costs, whatever the bins."""
    numbers, counts = np.unique(Buckets(STEP).of(tiny_table.costs(tiny_rows)), return_counts=True)
    prior = coarse.prior()

    assert prior.targets == pytest.approx(numbers * STEP)
    assert prior.probabilities == pytest.approx(counts / 2304)
    assert coarse.count == 2304


@given(low=st.floats(0, 1), width=st.floats(0, 0.01), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_between_any_bounds_the_draws_hold_or_there_is_nothing(tiny_table, tiny_rows, coarse, low, width, seed):
    """Inside narrow bounds every draw has its exact cost there; ValueError exactly where the listed space has nothing."""
    low = tiny_table.smallest + low * (tiny_table.largest - tiny_table.smallest)
    costs = tiny_table.costs(tiny_rows)
    if ((costs >= low) & (costs <= low + width)).any():
        drawn = tiny_table.costs(coarse.draw_between(low, low + width, 20, np.random.default_rng(seed)).rows)
        assert ((drawn >= low) & (drawn <= low + width)).all()
    else:
        with pytest.raises(ValueError, match=r"widen the interval|achievable range"):
            coarse.draw_between(low, low + width, 20, np.random.default_rng(seed))


@given(place=st.integers(0, 70), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_every_sample_of_the_paper_space_is_in_its_bucket(paper, place, seed):
    """By exact cost in [tau - 12.5, tau + 12.5), in about one trial, from the rarest bucket to the fullest."""
    target = paper.prior().targets[place]
    drawn = paper.draw(target, 50, np.random.default_rng(seed))
    costs = paper.table.costs(drawn.rows)

    assert drawn.rows.shape == (50, 31)
    assert ((costs >= target - 12.5) & (costs < target + 12.5)).all()
    assert 1 <= drawn.trials.mean() < 1.25


def test_paper_space_is_counted(paper):
    """4.403e11 architectures in 71 buckets of 25 MFLOPs: the dynamic programme, the buckets and the product agree."""
    targets, counts = paper.counts

    assert paper.count == counts.sum() == paper.table.space.size
    assert paper.count == pytest.approx(4.403e11, rel=1e-4)
    assert len(targets) == 71


def test_moments_of_the_paper_space(paper, rng):
    """Mean 738 and deviation 244 MFLOPs: genes are independent, so the mean is that of the table's entries."""
    prior = paper.prior()
    mean = prior.targets @ prior.probabilities
    deviation = np.sqrt((prior.targets - mean) ** 2 @ prior.probabilities)
    costs = paper.table.costs(encoding.random_genes(paper.table.space, 50_000, rng))

    assert mean == pytest.approx(sum(link.mean() for link in paper.table.links) / 1e6, abs=0.1)
    assert mean == pytest.approx(738, abs=0.5)
    assert deviation == pytest.approx(costs.std(), rel=0.015)
    assert deviation == pytest.approx(244, abs=0.6)


def test_prior_of_the_paper_space_agrees_with_uniform_draws(paper, rng):
    """Chi-square of 100,000 uniform architectures' buckets, rare ones left out."""
    prior = paper.prior()
    buckets = paper.buckets.of(paper.table.costs(encoding.random_genes(paper.table.space, 100_000, rng)))
    times = np.array([(buckets == paper.buckets.number(t)).sum() for t in prior.targets])
    common = prior.probabilities > 1e-4
    expected = prior.probabilities[common] * times[common].sum() / prior.probabilities[common].sum()

    assert chisquare(times[common], expected).pvalue > 1e-3


def test_the_share_of_cheap_architectures_in_the_paper_space(paper):
    """0.2 % of the architectures cost at most 312 MFLOPs."""
    share = Counter(paper.table).below([312.0])[0] / paper.table.space.size

    assert share == pytest.approx(0.002, abs=0.0005)


def test_plain_rejection_takes_one_over_the_prior(paper, rng):
    """Measured trials at a common target meet 1 / pi; over targets from the prior they average the number of buckets, 71."""
    prior = paper.prior()
    trials = uniform_trials(prior)
    drawn = RejectionSampler(paper.table, 25).draw(500, 2000, rng)

    assert drawn.trials.mean() == pytest.approx(trials[prior.targets == 500][0], rel=0.1)
    assert trials @ prior.probabilities == pytest.approx(71)
    assert trials.mean() == pytest.approx(3.2e9, rel=0.02)


def test_factorised_samples_are_in_their_bucket(factorised):
    """Exact costs in the bucket at every target of the pool's prior that is not rare."""
    prior = factorised.prior()
    for target in prior.targets[prior.probabilities > 1e-3]:
        costs = factorised.table.costs(factorised.draw(target, 20, np.random.default_rng(0)).rows)
        assert ((costs >= target - 12.5) & (costs < target + 12.5)).all()


def test_factorised_trials_are_those_published(factorised, rng):
    """The paper reports about 12 trials per sample, a recount of its release 14.4; 50,878 without the proposal."""
    prior = factorised.prior()
    trials = [factorised.draw(t, 200, rng).trials.mean() for t in prior.targets[prior.probabilities > 1e-4]]

    assert 10 < np.mean(trials) < 16


def test_factorised_proposal_is_biased(factorised, paper, rng):
    """Total variation of its resolutions from the uniform ones: 0.12 at 500 MFLOPs, 0.23 at 800."""
    for target, variation in ((500, 0.12), (800, 0.23)):
        shares = [
            np.array([(s.draw(target, 4000, rng).rows[:, 0] == r).mean() for r in paper.table.space.resolutions])
            for s in (factorised, paper)
        ]
        assert np.abs(shares[0] - shares[1]).sum() / 2 == pytest.approx(variation, abs=0.035)


def test_factorised_prior_approaches_the_exact_one(factorised, paper):
    """A pool of 200,000 gives every common target's probability to 5 %."""
    exact = dict(zip(paper.prior().targets, paper.prior().probabilities))
    for target, share in zip(factorised.prior().targets, factorised.prior().probabilities):
        assert exact[target] < 0.01 or share == pytest.approx(exact[target], rel=0.06)


def test_a_target_that_the_pool_lacks_raises(factorised):
    """1950 MFLOPs has two architectures of 4.4e11; a pool of 200,000 has none of them."""
    with pytest.raises(ValueError, match="larger pool"):
        factorised.draw(1950, 1, np.random.default_rng(0))


def test_trials_that_run_out_raise(paper_table):
    """The factorised sampler returns no architecture outside the bucket: with one trial per sample it raises."""
    sampler = FactorisedSampler(paper_table, step=25, pool=10_000, rng=np.random.default_rng(0), limit=1)
    with pytest.raises(RuntimeError, match="target 700 MFLOPs"):
        sampler.draw(700, 500, np.random.default_rng(0))


@pytest.mark.parametrize("target", [175, 1975])
def test_an_infeasible_target_states_the_range(paper, target, rng):
    """The error for a target below or above all buckets states the range."""
    with pytest.raises(ValueError, match=r"203\.39 to 1939\.34 MFLOPs"):
        paper.draw(target, 1, rng)
    with pytest.raises(ValueError, match=r"203\.39 to 1939\.34 MFLOPs"):
        RejectionSampler(paper.table, 25).draw(target, 1, rng)


def test_a_gap_names_its_neighbours(tiny_table, tiny_rows, rng):
    """With fine steps some buckets inside the range are empty; the nearest occupied ones are in the message."""
    sampler = ExactSampler(tiny_table, 1e-5)
    occupied = set(Buckets(1e-5).of(tiny_table.costs(tiny_rows)).tolist())
    gap = next(n for n in range(min(occupied), max(occupied)) if n not in occupied)
    with pytest.raises(ValueError, match=f"{max(o for o in occupied if o < gap) * 1e-5:g}"):
        sampler.draw(gap * 1e-5, 1, rng)


def test_a_target_off_the_step_is_refused(paper, rng):
    """The target 512 is not a multiple of 25."""
    with pytest.raises(ValueError, match="nearest is 500"):
        paper.draw(512, 1, rng)


def test_used_up_trials_raise(paper, rng):
    """Bounds that nearly no proposal keeps end in an error, not in an endless loop."""
    at = paper.table.cost(published.find("AttentiveNAS-A4").arch)
    with pytest.raises(RuntimeError, match=r"of 1000 architectures"):
        reject(lambda m: paper.draw(450, m, rng).rows, lambda rows: paper.table.costs(rows) == at + 1e-9, 1000, 16, 5000, "nothing")


def test_equal_seeds_draw_equal_architectures(paper, factorised):
    """Targets and architectures depend on the generator alone."""
    for sampler in (paper, factorised):
        propose = UnderTarget(sampler, paper.prior() if sampler is paper else sampler.prior())
        first, second, other = (propose(3, np.random.default_rng(seed)) for seed in (5, 5, 6))

        assert first == second != other


def test_flat_prior_reaches_every_bucket_alike(paper, rng):
    """14,200 draws spread evenly over the 71 targets (chi-square)."""
    flat = paper.prior().flat()
    _, times = np.unique([flat.draw(rng) for _ in range(14_200)], return_counts=True)

    assert len(times) == 71
    assert chisquare(times).pvalue > 1e-3


def test_prior_draws_its_targets_in_proportion(coarse, rng):
    """Chi-square of 20,000 targets against the probabilities."""
    prior = coarse.prior()
    drawn = np.array([prior.draw(rng) for _ in range(20_000)])
    times = np.array([(drawn == t).sum() for t in prior.targets])
    common = prior.probabilities > 5e-4
    expected = prior.probabilities[common] * times[common].sum() / prior.probabilities[common].sum()

    assert chisquare(times[common], expected).pvalue > 1e-3


def test_a_cost_on_an_edge_belongs_above():
    """[tau - t/2, tau + t/2): 212.5 is in the bucket of 225, and 0.15 in that of 0.2 although 0.15 / 0.1 < 1.5 in floats."""
    assert Buckets(25).of([212.4999, 212.5, 237.4999]).tolist() == [8, 9, 9]
    assert Buckets(0.1).of([0.15, 0.25, 0.35, 0.45]).tolist() == [2, 3, 4, 5]


def test_trials_study_has_the_columns_of_figure_8(tiny_table, coarse, rng):
    """One row per occupied target; uniform is 1 / pi, the exact sampler takes about one trial, the paper's more."""
    study = trials_study(tiny_table, STEP, pool=5000, samples=200, rng=rng)

    assert list(study) == ["target", "uniform", "paper_mean", "paper_std", "exact"]
    assert study["uniform"].to_numpy() == pytest.approx(1 / coarse.prior().probabilities)
    assert study["exact"].between(1, 1.05).all()
    assert (study["paper_mean"].dropna() < study["uniform"][study["paper_mean"].notna()] * 1.5).all()

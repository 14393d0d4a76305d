"""Sampling strategies on known scores, and their names."""

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from nas.cost import flops
from nas.evaluation.metrics import best_front
from nas.sampling.attentive import BestUp, FromSet, Uniform, WorstUp, best, pareto_set, parse_strategy, strategy_by_name
from nas.sampling.exact import ExactSampler
from nas.sampling.target import UnderTarget
from nas.sampling.uniform import Unconstrained
from nas.spaces import FOLDER, encoding
from nas.spaces.mbconv import load

NAMES = ("uniform", "bestup-3-loss", "worstup-3-loss", "bestup-50-acc", "worstup-50-acc", "bestup-1k-acc", "worstup-1k-acc")


@pytest.fixture(scope="module")
def place(tiny_rows):
    """A score without ties: an architecture's place in the list of all, in [0, 1)."""
    places = {arch: i / len(tiny_rows) for i, arch in enumerate(encoding.from_genes(tiny_rows))}
    return lambda archs: [places[a] for a in archs]


def never(archs):
    raise AssertionError("no score is needed here")


@pytest.mark.parametrize("k", [3, 50])
@pytest.mark.parametrize("kind", [BestUp, WorstUp])
def test_order_statistics(tiny_space, tiny_rows, place, kind, k):
    """10,000 choices among k uniform architectures: their ranks follow Beta(k, 1) for the best and Beta(1, k) for the worst."""
    rng = np.random.default_rng(7)
    rule = kind(Unconstrained(tiny_space), k)
    chosen = place([rule.choose(rule.candidates(rng), place) for _ in range(10_000)])
    ranks = chosen + rng.random(10_000) / len(tiny_rows)  # ranks are steps of 1/2304: spread evenly over the step

    assert kstest(ranks, "beta", (k, 1) if kind is BestUp else (1, k)).pvalue > 1e-3


@pytest.mark.parametrize("kind", [BestUp, WorstUp])
def test_order_statistics_of_a_predictor(tiny_space, tiny_rows, place, kind):
    """The same for 2000 choices among 50 that a predictor makes ahead of the step."""
    rng = np.random.default_rng(8)
    rule = kind(Unconstrained(tiny_space), 50, predictor=place)
    chosen = place([rule.candidates(rng)[0] for _ in range(2000)])

    assert kstest(chosen + rng.random(2000) / len(tiny_rows), "beta", (50, 1) if kind is BestUp else (1, 50)).pvalue > 1e-3


def test_best_and_worst_of_the_same_candidates(tiny_space, place, rng):
    """BestUp takes the highest score, WorstUp the lowest."""
    candidates = Unconstrained(tiny_space)(20, rng)
    scores = place(candidates)

    assert BestUp(Unconstrained(tiny_space), 20).choose(candidates, place) == candidates[int(np.argmax(scores))]
    assert WorstUp(Unconstrained(tiny_space), 20).choose(candidates, place) == candidates[int(np.argmin(scores))]


def test_a_predictor_chooses_ahead_of_the_step(tiny_space, place):
    """With a predictor one candidate is left: the one that the step would have chosen with the same score."""
    ahead = BestUp(Unconstrained(tiny_space), 50, predictor=place)
    later = BestUp(Unconstrained(tiny_space), 50)
    (chosen,) = ahead.candidates(np.random.default_rng(3))

    assert chosen == later.choose(later.candidates(np.random.default_rng(3)), place)
    assert ahead.choose([chosen], never) == chosen


def test_uniform_needs_no_score(tiny_space, rng):
    """One candidate, chosen without a forward pass."""
    rule = Uniform(Unconstrained(tiny_space))
    candidates = rule.candidates(rng)

    assert rule.choose(candidates, never) == candidates[0]


@pytest.mark.parametrize("scores", [[1.0, float("nan")], [1.0]])
def test_invalid_scores_are_refused(tiny_space, scores):
    """A NaN loss or a missing one stops the step."""
    with pytest.raises(ValueError, match="2 candidates"):
        best([tiny_space.smallest(), tiny_space.largest()], lambda archs: scores)


def test_pareto_set_of_many_is_that_of_the_space(tiny_space, tiny_rows):
    """60,000 draws, in two parts, see all 2304 architectures, so their front is the listed space's."""
    table = flops.table(tiny_space, classes=10)

    def predict(rows):  # no ties: weights that are independent over the rationals, near enough
        return np.sin(rows @ np.sqrt(np.arange(2, 2 + rows.shape[1])))

    for front, sign in (("best", 1), ("worst", -1)):
        expected = encoding.from_genes(tiny_rows[best_front(sign * table.costs(tiny_rows), sign * predict(tiny_rows))])
        models = pareto_set(table, predict, front, 60_000, np.random.default_rng(0)).models
        # architectures of equal cost and value do not occur, so the sets are equal
        assert set(models) == set(expected)


@pytest.mark.parametrize(("name", "sign"), [("bestup-1m-acc", 1), ("worstup-1m-acc", -1)])
def test_an_offline_set_is_the_front_of_a_million_draws(name, sign):
    """Pair by pair, in the paper's space: no architecture drawn dominates a model, each is dominated by a model or is one.

    For the worst set, dominating is costing as much or more and being as bad or worse.
    """
    table = flops.table(load(FOLDER / "attentive_nas.yaml"), classes=1000)
    weights = 100_000 // np.array(table.space.largest().genes) * np.arange(1, 32)
    mix = np.random.default_rng(1).integers(1_000_000, size=31)
    costs, values = [], []

    def predict(rows):  # grows with every gene, more or less; in whole numbers, so that sums are exact
        return (rows @ weights + rows @ mix % 1_000_000).astype(float)

    def record(rows):
        costs.append(sign * table.costs(rows))
        values.append(sign * predict(rows))
        return predict(rows)

    rule = strategy_by_name(name, never, table=table, predict=record, rng=np.random.default_rng(2))
    cost, value = np.concatenate(costs), np.concatenate(values)
    models = encoding.to_genes(rule.propose.models)
    behind = np.zeros(len(cost), dtype=bool)
    for c, v in zip(sign * table.costs(models), sign * predict(models)):
        cheaper, better, same = cost <= c, value >= v, (cost == c) & (value == v)
        behind |= (cost >= c) & (value <= v)
        assert same.any()
        assert not (cheaper & better & ~same).any()

    assert len(cost) == 1_000_000
    assert len(models) > 20
    assert behind.all()


def test_fixed_set_is_drawn_uniformly(tiny_space, rng):
    """Two models, half of 4000 draws each to four deviations."""
    models = (tiny_space.smallest(), tiny_space.largest())
    drawn = FromSet(models)(4000, rng)

    assert sum(a == models[0] for a in drawn) == pytest.approx(2000, abs=4 * np.sqrt(1000))


@pytest.mark.parametrize(
    ("name", "kind", "k"),
    [("bestup-3-loss", BestUp, 3), ("worstup-3-loss", WorstUp, 3), ("bestup-50-acc", BestUp, 50), ("worstup-7-acc", WorstUp, 7)],
)
def test_names_of_strategies(tiny_space, name, kind, k):
    """The rule, the number of candidates and whether the predictor decides."""
    rule = strategy_by_name(name, Unconstrained(tiny_space), predict=lambda rows: rows[:, 0])

    assert type(rule) is kind
    assert rule.k == k
    assert (rule.predictor is not None) == name.endswith("acc") == parse_strategy(name).needs_predictor


@pytest.mark.parametrize(("name", "m"), [("bestup-1m-acc", 1_000_000), ("worstup-1m-acc", 1_000_000), ("bestup-20k-acc", 20_000)])
def test_names_of_offline_strategies(name, m):
    """1m is a million architectures, 20k twenty thousand, ranked by the predictor."""
    form = parse_strategy(name)

    assert (form.k, form.offline, form.needs_predictor) == (m, True, True)


def test_offline_strategy_draws_from_its_front(tiny_space, rng):
    """With accuracy = the gene of the resolution, the best set has at most one architecture per resolution, the cheapest drawn."""
    table = flops.table(tiny_space, classes=10)
    rule = strategy_by_name("bestup-20k-acc", never, table=table, predict=lambda rows: rows[:, 0].astype(float), rng=rng)
    drawn = {rule.candidates(rng)[0] for _ in range(100)}
    cheapest = [a for a in drawn if table.cost(a) == table.smallest]

    assert len(drawn) == len(tiny_space.resolutions)
    assert {a.resolution for a in drawn} == set(tiny_space.resolutions)
    assert cheapest == [tiny_space.smallest()]


@pytest.mark.parametrize("name", ["best-up-3", "bestup-0-loss", "bestup-3", "bestup-1m-loss", "worstup--acc", "Uniform"])
def test_a_wrong_name_states_the_forms(name):
    """The key of params.yaml and the forms allowed are in the message."""
    with pytest.raises(ValueError, match=r"train\.strategy.*bestup-K-loss"):
        parse_strategy(name)


@pytest.mark.parametrize(("name", "lack"), [("bestup-50-acc", "predictor"), ("worstup-1m-acc", "predictor")])
def test_a_strategy_that_lacks_its_predictor(tiny_space, name, lack):
    """-acc without a predictor is refused when the strategy is built, not at the first step."""
    with pytest.raises(ValueError, match=lack):
        strategy_by_name(name, Unconstrained(tiny_space))


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_propose_equal_candidates(tiny_space, name):
    """Twenty steps under drawn targets, and the offline sets, depend on the generator alone; another seed gives others."""
    table = flops.table(tiny_space, classes=10)
    sampler = ExactSampler(table, step=0.02)
    propose = UnderTarget(sampler, sampler.prior())

    def steps(seed):
        rng = np.random.default_rng(seed)
        rule = strategy_by_name(name, propose, table=table, predict=lambda rows: np.sin(rows @ np.sqrt(np.arange(2, 13))), rng=rng)
        return [rule.candidates(rng) for _ in range(20)]

    first = steps(5)

    assert first == steps(5)
    assert first != steps(6)


def test_candidates_under_flat_targets(tiny_space, rng):
    """5000 steps of bestup-3-loss: three candidates in one bucket by their exact cost, and every bucket as often (chi-square)."""
    table = flops.table(tiny_space, classes=10)
    sampler = ExactSampler(table, step=0.02)
    prior = sampler.prior()
    rule = strategy_by_name("bestup-3-loss", UnderTarget(sampler, prior.flat()))
    drawn = [rule.candidates(rng) for _ in range(5000)]
    costs = table.costs(encoding.to_genes([arch for step in drawn for arch in step])).reshape(5000, 3)
    middle = costs.mean(axis=1)
    nearest = prior.targets[np.abs(middle[:, None] - prior.targets).argmin(axis=1)]
    targets, times = np.unique(nearest, return_counts=True)

    assert (np.abs(costs - nearest[:, None]) <= 0.01 + 1e-9).all()
    assert np.array_equal(targets, prior.targets)
    assert chisquare(times).pvalue > 1e-3

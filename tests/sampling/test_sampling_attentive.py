"""Strategies on scores that are known, and their names."""

import numpy as np
import pytest

from nas import encoding
from nas.cost import flops
from nas.pareto import best_front
from nas.sampling.attentive import BestUp, FromSet, Uniform, WorstUp, best, pareto_set, parse, strategy
from nas.sampling.uniform import Unconstrained


@pytest.fixture(scope="module")
def place(tiny_rows):
    """A score without ties: an architecture's place in the list of all, in [0, 1)."""
    places = {arch: i / len(tiny_rows) for i, arch in enumerate(encoding.from_rows(tiny_rows))}
    return lambda archs: [places[a] for a in archs]


def never(archs):
    raise AssertionError("no score is needed here")


@pytest.mark.parametrize(("kind", "share"), [(BestUp, 1 - (2 / 3) ** 3), (WorstUp, (1 / 3) ** 3)])
def test_order_statistics_of_three(tiny_space, place, rng, kind, share):
    """Of 10,000 choices among 3 uniform ones, 19/27 of the best and 1/27 of the worst lie in the top third."""
    rule = kind(Unconstrained(tiny_space), 3)
    chosen = place([rule.choose(rule.candidates(rng), place) for _ in range(10_000)])

    assert np.mean(np.array(chosen) >= 2 / 3) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 10_000))


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
def test_scores_that_decide_nothing_are_refused(tiny_space, scores):
    """A loss that is not a number, or one too few, stops the step."""
    with pytest.raises(ValueError, match="2 candidates"):
        best([tiny_space.smallest(), tiny_space.largest()], lambda archs: scores)


def test_pareto_set_of_many_is_that_of_the_space(tiny_space, tiny_rows):
    """60,000 draws, in two parts, see all 2304 architectures, so their front is the listed space's."""
    table = flops.table(tiny_space, classes=10)

    def predict(rows):  # no ties: weights that are independent over the rationals, near enough
        return np.sin(rows @ np.sqrt(np.arange(2, 2 + rows.shape[1])))

    for front, sign in (("best", 1), ("worst", -1)):
        expected = encoding.from_rows(tiny_rows[best_front(sign * table.costs(tiny_rows), sign * predict(tiny_rows))])
        found = pareto_set(table, predict, front, 60_000, np.random.default_rng(0)).members
        # architectures of equal cost and value do not occur, so the sets are equal
        assert set(found) == set(expected)


def test_fixed_set_is_drawn_uniformly(tiny_space, rng):
    """Two members, half of 4000 draws each to four deviations."""
    members = (tiny_space.smallest(), tiny_space.largest())
    drawn = FromSet(members)(4000, rng)

    assert sum(a == members[0] for a in drawn) == pytest.approx(2000, abs=4 * np.sqrt(1000))


@pytest.mark.parametrize(
    ("name", "kind", "k"),
    [("bestup-3-loss", BestUp, 3), ("worstup-3-loss", WorstUp, 3), ("bestup-50-acc", BestUp, 50), ("worstup-7-acc", WorstUp, 7)],
)
def test_names_of_strategies(tiny_space, name, kind, k):
    """The rule, the number of candidates and whether the predictor decides."""
    found = strategy(name, Unconstrained(tiny_space), predict=lambda rows: rows[:, 0])

    assert type(found) is kind
    assert found.k == k
    assert (found.predictor is not None) == name.endswith("acc") == parse(name).needs_predictor


@pytest.mark.parametrize(("name", "m"), [("bestup-1m-acc", 1_000_000), ("worstup-1m-acc", 1_000_000), ("bestup-20k-acc", 20_000)])
def test_names_of_offline_strategies(name, m):
    """1m is a million architectures, 20k twenty thousand, ranked by the predictor."""
    form = parse(name)

    assert (form.k, form.offline, form.needs_predictor) == (m, True, True)


def test_offline_strategy_draws_from_its_front(tiny_space, rng):
    """With accuracy = the gene of the resolution, the best set has at most one architecture per resolution, the cheapest drawn."""
    table = flops.table(tiny_space, classes=10)
    rule = strategy("bestup-20k-acc", never, table=table, predict=lambda rows: rows[:, 0].astype(float), rng=rng)
    drawn = {rule.candidates(rng)[0] for _ in range(100)}
    cheapest = [a for a in drawn if table.cost(a) == table.smallest]

    assert len(drawn) == len(tiny_space.resolutions)
    assert {a.resolution for a in drawn} == set(tiny_space.resolutions)
    assert cheapest == [tiny_space.smallest()]


@pytest.mark.parametrize("name", ["best-up-3", "bestup-0-loss", "bestup-3", "bestup-1m-loss", "worstup--acc", "Uniform"])
def test_a_wrong_name_states_the_forms(name):
    """The key of params.yaml and the forms allowed are in the message."""
    with pytest.raises(ValueError, match=r"train\.strategy.*bestup-K-loss"):
        parse(name)


@pytest.mark.parametrize(("name", "lack"), [("bestup-50-acc", "predictor"), ("worstup-1m-acc", "predictor")])
def test_a_strategy_that_lacks_its_predictor(tiny_space, name, lack):
    """-acc without a predictor is refused when the strategy is made, not at the first step."""
    with pytest.raises(ValueError, match=lack):
        strategy(name, Unconstrained(tiny_space))

"""Evolution and random search on an oracle over a space that can be enumerated."""

from itertools import product

import numpy as np
import pytest

from nas.search import evolution
from nas.search.archive import Archive
from nas.search.evolution import Evolution, EvolutionConfig, RandomSearch
from nas.search.loop import search
from nas.search.problem import Objective, Problem, score_objective
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace, StageSpace

SPACE = SearchSpace(
    name="toy",
    resolutions=(8, 12, 16),
    stem_widths=(4, 8),
    stem_stride=1,
    stages=(
        StageSpace("a", widths=(8, 16), depths=(1, 2), kernels=(3, 5), expansions=(1, 2), stride=1, se=False),
        StageSpace("b", widths=(16, 24), depths=(1, 2, 3), kernels=(3, 5), expansions=(2, 4), stride=2, se=True),
    ),
    head_widths=(32, 48),
    head_expansion=1,
)
ALL_ROWS = np.array(list(product(*(g.choices for g in SPACE.genes))))  # all 4608 architectures
LOW, HIGH = ALL_ROWS.min(axis=0), ALL_ROWS.max(axis=0)
GAIN = np.array([9, 1, 2, 4, 3, 2, 5, 1, 2, 3, 1])  # percent of top-1 between a gene's ends
PRICE = np.array([6, 1, 2, 3, 1, 3, 6, 1, 1, 4, 2])  # cost between a gene's ends


def unit(rows: np.ndarray) -> np.ndarray:
    return (np.asarray(rows) - LOW) / (HIGH - LOW)


def cost(rows: np.ndarray) -> np.ndarray:
    return 2 + (unit(rows) * PRICE).sum(axis=1)


def top1(rows: np.ndarray) -> np.ndarray:
    return 50 + (np.sqrt(unit(rows)) * GAIN).sum(axis=1)


def draw(n: int, rng: np.random.Generator) -> list[Arch]:
    return [SPACE.random(rng) for _ in range(n)]


class Oracle:
    """Scores from the closed form, and the list of all scored architectures."""

    def __init__(self) -> None:
        self.calls: list[Arch] = []

    def __call__(self, archs: list[Arch]) -> list[float]:
        self.calls += archs
        return top1(encoding.to_genes(archs)).tolist()


def run(oracle=None, *, seed=0, population=60, mutations=40, crossovers=40, rounds=9, bucket=0.5, **more) -> Archive:
    cfg = EvolutionConfig(
        population=population, mutations=mutations, crossovers=crossovers, rounds=rounds, mutation_probability=0.2, bucket=bucket
    )
    return searched(Evolution(cfg, draw), oracle, seed=seed, **more)


def run_random(oracle=None, *, n=300, block=64, seed=0, **more) -> Archive:
    return searched(RandomSearch(n, block, draw), oracle, seed=seed, **more)


def searched(method, oracle, *, low=-np.inf, high=np.inf, **more) -> Archive:
    problem = Problem(SPACE, (Objective("mflops", cost, low=low, high=high), score_objective()))
    return search(method, problem, score=oracle or Oracle(), **more)


def steps(costs: np.ndarray, scores: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Best score within each budget."""
    return np.array([scores[costs <= b].max() for b in budgets])


def same(a: Archive, b: Archive) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.to_arrays().values(), b.to_arrays().values()))


BUDGETS = np.arange(2.0, 33.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_true_front_is_found(seed):
    """For every budget, the best of all 4608 architectures is among the 1180 evaluated ones."""
    archive = run(seed=seed, rounds=14)
    assert steps(archive.cost, archive.score, BUDGETS).tolist() == steps(cost(ALL_ROWS), top1(ALL_ROWS), BUDGETS).tolist()
    assert len(archive) == 1180


@pytest.mark.parametrize("seed", range(3))
def test_evolution_beats_random_search_with_the_same_budget(seed):
    """Averaged over the budgets, random search misses the true front by more than twice as much."""
    true = steps(cost(ALL_ROWS), top1(ALL_ROWS), BUDGETS)
    evolved, drawn = run(seed=seed), run_random(n=780, seed=seed)
    lost = [(true - steps(e.cost, e.score, BUDGETS)).mean() for e in (evolved, drawn)]
    assert lost[1] > 2 * lost[0]


def test_evaluations_are_counted_once():
    """60 + 9 * (40 + 40) = 780 distinct architectures, each scored once by the oracle."""
    oracle = Oracle()
    archive = run(oracle)
    assert len(oracle.calls) == len(set(oracle.calls)) == len(archive) == 780
    assert np.bincount(archive.round).tolist() == [60] + [80] * 9


def test_costs_and_scores_are_those_of_the_rows():
    """Cost and score recomputed from the rows are equal."""
    archive = run(rounds=3)
    assert np.array_equal(archive.cost, cost(archive.rows))
    assert np.array_equal(archive.score, top1(archive.rows))


def test_the_smallest_and_the_largest_network_are_in_the_population():
    """Both searches start with them."""
    assert run(rounds=0).archs[:2] == run_random().archs[:2] == [SPACE.smallest(), SPACE.largest()]


def test_bounds_hold():
    """No architecture that costs less than 10 or more than 14 is evaluated."""
    oracle = Oracle()
    archive, drawn = run(oracle, low=10, high=14, rounds=4), run_random(oracle, low=10, high=14, seed=1)
    costs = cost(encoding.to_genes(oracle.calls))
    assert len(costs) == len(archive) + len(drawn) and costs.min() >= 10 and costs.max() <= 14


def test_a_gap_in_the_costs_raises_after_a_bounded_search():
    """No sum of prices lies between 2.1 and 2.2, though 2 to 32 is achievable: an error, not an endless loop."""
    with pytest.raises(ValueError, match=r"no architecture with 2\.1 <= mflops <= 2\.2"):
        run(low=2.1, high=2.2)


def test_an_exhausted_region_ends_the_search():
    """All 32 architectures that cost at most 4 are evaluated once, and the search ends before its last round."""
    feasible = {tuple(r) for r in ALL_ROWS[cost(ALL_ROWS) <= 4]}
    archive = run(low=2, high=4, rounds=1000)
    assert {tuple(r) for r in archive.rows} == feasible and len(archive) == len(feasible)
    assert archive.round.max() < 1000


def test_random_search_of_an_exhausted_region_ends():
    """With a budget of 1000 in a region of 32 it evaluates the 32."""
    assert len(run_random(n=1000, low=2, high=4)) == (cost(ALL_ROWS) <= 4).sum()


@pytest.mark.parametrize("stop", [0, 3, 8])
def test_a_resumed_evolution_ends_as_the_undisturbed_one(stop):
    """From the arrays of any round on, the search is bit for bit the same."""
    saved = {}
    whole = run(seed=5, on_round=lambda evaluated, number: saved.update({number: evaluated.to_arrays()}))
    oracle = Oracle()
    resumed = run(oracle, seed=5, archive=Archive(**saved[stop]))
    assert same(whole, resumed)
    assert len(oracle.calls) == 80 * (9 - stop)


def test_a_resumed_random_search_ends_as_the_undisturbed_one():
    """Stopped after block 2 of 64, 64, 64, 64, 44; the last blocks are drawn as without a stop."""
    saved = {}
    whole = run_random(on_round=lambda evaluated, number: saved.update({number: evaluated}))
    assert same(whole, run_random(archive=saved[2]))
    assert np.bincount(whole.round).tolist() == [64, 64, 64, 64, 44]


def test_a_finished_search_evaluates_nothing_more():
    """Resumed after its last round, it returns the same archive without a call of the oracle."""
    whole, oracle = run(), Oracle()
    assert same(run(oracle, archive=whole), whole) and oracle.calls == []


def test_the_seed_decides():
    """The same seed gives the same search, another seed another one."""
    assert same(run(seed=1, rounds=2), run(seed=1, rounds=2))
    assert not same(run(seed=1, rounds=2), run(seed=2, rounds=2))


def test_parents_are_the_best_per_bucket():
    """Width 10: 4 and -4 are around 0, 5 to 14 around 10; ties go to the first evaluated."""
    evaluated = Archive(np.zeros((6, 11)), np.array([4, 3, 5, 14, 9, 31.0]), np.array([1, 2, 7, 7, 6, 3.0]), np.zeros(6))
    assert evolution.best_per_bucket(evaluated, 10).tolist() == [1, 2, 5]


def test_an_archive_survives_a_frame():
    """To a frame with one column per gene, and back."""
    whole = run(rounds=2)
    frame = whole.to_frame(SPACE)
    assert list(frame)[:3] == ["resolution", "stem.width", "a.width"] and list(frame)[-3:] == ["mflops", "top1", "round"]
    assert same(Archive.from_frame(frame.assign(method="evolution"), SPACE), whole)


def test_a_frame_of_another_space_is_refused():
    """The first missing column is named."""
    with pytest.raises(ValueError, match=r"'b\.depth' is missing"):
        Archive.from_frame(run(rounds=0).to_frame(SPACE).drop(columns="b.depth"), SPACE)


@pytest.mark.parametrize(("scores", "message"), [([np.nan] * 60, "diverged"), ([1.0], "one value per")])
def test_broken_scores_stop_the_search(scores, message):
    """A NaN or a missing score raises."""
    with pytest.raises(ValueError, match=message):
        run(lambda archs: scores)

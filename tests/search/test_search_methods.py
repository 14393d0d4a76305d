"""Every search method on a closed-form oracle over the 2304 architectures of a tiny space, whose true front is known."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from nas.cost import flops, parameters
from nas.cost.table import CostTable
from nas.evaluation import metrics
from nas.sampling.exact import ExactSampler
from nas.sampling.uniform import StratifiedDraw, Unconstrained
from nas.search import bayesian, evolution, nsga2
from nas.search.archive import Archive, ScoreCache
from nas.search.loop import Method, search
from nas.search.problem import Objective, Problem, cost_objective, score_objective
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace


@dataclass
class Oracle:
    """Diminishing gains, of a different size per gene, and a loss for a deep and narrow second stage."""

    space: SearchSpace
    calls: list[Arch] = field(default_factory=list)
    patience: int = 10**9  # scores before it is interrupted

    def top1(self, rows: np.ndarray) -> np.ndarray:
        last = np.maximum([len(g.choices) - 1 for g in self.space.genes], 1)
        unit = encoding.indices(self.space, rows) / last
        gains = np.array([8, 1, 2, 3, 2, 3, 5, 1, 2, 1, 3])
        return 60 + unit**0.7 @ gains - 3 * unit[:, 6] * (1 - unit[:, 3])

    def __call__(self, archs: list[Arch]):
        for arch, score in zip(archs, self.top1(encoding.to_genes(archs))):
            if len(self.calls) == self.patience:
                raise KeyboardInterrupt
            self.calls.append(arch)
            yield float(score)


@pytest.fixture(scope="module")
def table(tiny_space) -> CostTable:
    return flops.table(tiny_space, 10)


@pytest.fixture(scope="module")
def problem(tiny_space, table) -> Problem:
    return Problem(tiny_space, (cost_objective("mflops", table), score_objective()))


@pytest.fixture(scope="module")
def three_objectives(tiny_space, table) -> Problem:
    sizes = cost_objective("parameters", parameters.table(tiny_space, 10))
    return Problem(tiny_space, (cost_objective("mflops", table), sizes, score_objective()))


@pytest.fixture(scope="module")
def spread(table) -> StratifiedDraw:
    sampler = ExactSampler(table, (table.largest - table.smallest) / 8)

    def between(low: float, high: float, n: int, rng: np.random.Generator) -> list[Arch]:
        return sampler.draw_between(low, high, n, rng).archs()

    return StratifiedDraw(between, table.smallest, table.largest, strata=8)


METHODS = ("evolution", "nsga2", "bayesian", "random search")


def method(name: str, problem: Problem, spread: StratifiedDraw, evaluations: int) -> Method:
    """The method with this budget (evolution: a multiple of 40)."""
    if name == "evolution":
        rounds = (evaluations - 80) // 40
        sizes = {"population": 80, "mutations": 20, "crossovers": 20, "rounds": rounds, "mutation_probability": 0.2, "bucket": 0.005}
        return evolution.Evolution(evolution.EvolutionConfig(**sizes), spread)
    if name == "nsga2":
        sizes = {"population": 40, "offspring": 40, "crossover_probability": 0.9, "mutation_probability": 0.1}
        return nsga2.Nsga2(nsga2.Nsga2Config(evaluations=evaluations, **sizes), spread)
    if name == "bayesian":
        return bayesian.Bayesian(bayesian.BayesianConfig(evaluations=evaluations, start=40, batch=40), spread)
    return evolution.RandomSearch(evaluations, 64, Unconstrained(problem.space))


def true_front(problem: Problem, rows: np.ndarray) -> set[tuple[float, ...]]:
    """The Pareto front of all architectures within the bounds."""
    scores = Oracle(problem.space).top1(rows)
    losses = problem.losses(rows, scores)[problem.allowed(rows) & problem.score.within(scores)]
    return set(map(tuple, losses[metrics.pareto_front(losses)]))


def found_front(problem: Problem, evaluated: Archive) -> set[tuple[float, ...]]:
    front = evaluated[problem.front(evaluated)]
    return set(map(tuple, problem.losses(front.rows, front.score)))


def same(a: Archive, b: Archive) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a.to_arrays().values(), b.to_arrays().values()))


@pytest.mark.parametrize(("name", "evaluations"), [("evolution", 1200), ("nsga2", 800), ("bayesian", 400), ("random search", 2304)])
def test_the_true_front_is_found(name, evaluations, problem, spread, tiny_rows):
    """All of its points and no others; random search needs to evaluate the whole space for that."""
    archive = search(method(name, problem, spread, evaluations), problem, score=Oracle(problem.space), seed=0)
    assert found_front(problem, archive) == true_front(problem, tiny_rows)
    assert len(archive) <= evaluations


@pytest.mark.parametrize(("name", "evaluations"), [("evolution", 1800), ("nsga2", 1600), ("bayesian", 1000)])
def test_the_true_front_of_three_objectives_is_found(name, evaluations, three_objectives, spread, tiny_rows):
    """All points of the front of MFLOPs, parameters and top-1."""
    archive = search(method(name, three_objectives, spread, evaluations), three_objectives, score=Oracle(three_objectives.space), seed=0)
    assert found_front(three_objectives, archive) == true_front(three_objectives, tiny_rows)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_evaluated_twice(name, problem, spread):
    """The oracle scores each of the 320 once, and the columns belong to their rows."""
    oracle = Oracle(problem.space)
    archive = search(method(name, problem, spread, 320), problem, score=oracle, seed=1)
    assert len(archive) == len(oracle.calls) == len(set(oracle.calls)) == 320
    assert np.array_equal(archive.score, oracle.top1(archive.rows)) and np.array_equal(archive.cost, problem.cost(archive.rows))


@pytest.mark.parametrize("name", METHODS)
def test_bounds_on_costs_hold(name, tiny_space, table, spread, tiny_rows):
    """No architecture beyond the bounds on MFLOPs or on parameters, the latter a constraint, is evaluated."""
    sizes = parameters.table(tiny_space, 10)
    low, high = np.quantile(table.costs(tiny_rows), [0.2, 0.6])
    most = float(np.quantile(sizes.costs(tiny_rows), 0.7))
    objectives = (cost_objective("mflops", table, low, high), score_objective())
    bounded = Problem(tiny_space, objectives, constraints=(cost_objective("parameters", sizes, high=most),))
    oracle = Oracle(tiny_space)
    search(method(name, bounded, spread, 160), bounded, score=oracle, seed=0)
    rows = encoding.to_genes(oracle.calls)
    assert table.costs(rows).min() >= low and table.costs(rows).max() <= high and sizes.costs(rows).max() <= most


@pytest.mark.parametrize(("name", "evaluations"), [("evolution", 1200), ("nsga2", 800), ("bayesian", 400)])
def test_a_bound_on_the_score_restricts_the_front(name, evaluations, tiny_space, table, spread, tiny_rows):
    """With at least 80 % nothing below is in the front, and everything above is found."""
    bounded = Problem(tiny_space, (cost_objective("mflops", table), score_objective(low=80)))
    archive = search(method(name, bounded, spread, evaluations), bounded, score=Oracle(tiny_space), seed=0)
    assert archive.score[bounded.front(archive)].min() >= 80
    assert found_front(bounded, archive) == true_front(bounded, tiny_rows)


@pytest.mark.parametrize("name", METHODS)
def test_a_search_resumed_after_a_round_ends_as_the_undisturbed_one(name, problem, spread):
    """From the arrays of round 2, bit for bit, and nothing is scored twice."""
    saved = {}
    whole = search(
        method(name, problem, spread, 320),
        problem,
        score=Oracle(problem.space),
        seed=3,
        on_round=lambda evaluated, number: saved.update({number: evaluated.to_arrays()}),
    )
    oracle = Oracle(problem.space)
    before = Archive(**saved[2])
    assert same(whole, search(method(name, problem, spread, 320), problem, score=oracle, seed=3, archive=before))
    assert len(oracle.calls) == 320 - len(before)


@pytest.mark.parametrize("name", METHODS)
def test_a_search_killed_within_a_round_ends_as_the_undisturbed_one(name, problem, spread, tmp_path):
    """Interrupted after 150 scores, which are in the file; the second run scores the other 170."""
    whole = search(method(name, problem, spread, 320), problem, score=Oracle(problem.space), seed=3)
    killed, saved = Oracle(problem.space, patience=150), {}
    path = tmp_path / "scores.jsonl"
    with pytest.raises(KeyboardInterrupt):
        search(
            method(name, problem, spread, 320),
            problem,
            score=killed,
            seed=3,
            cache=ScoreCache("w", path),
            on_round=lambda evaluated, number: saved.update(archive=evaluated),
        )
    oracle = Oracle(problem.space)
    assert same(whole, search(method(name, problem, spread, 320), problem, score=oracle, seed=3, cache=ScoreCache("w", path), **saved))
    assert len(oracle.calls) == 170 and not set(oracle.calls) & set(killed.calls)


def test_methods_share_the_cache(problem, spread):
    """Random search after NSGA-II with the same cache scores only new architectures."""
    cache = ScoreCache("early")
    search(method("nsga2", problem, spread, 800), problem, score=Oracle(problem.space), seed=0, cache=cache)
    oracle = Oracle(problem.space)
    archive = search(method("random search", problem, spread, 320), problem, score=oracle, seed=0, cache=cache)
    assert len(archive) == 320 > len(oracle.calls) and len(cache) == 800 + len(oracle.calls)


@pytest.mark.parametrize("name", METHODS)
def test_an_exhausted_region_ends_the_search(name, tiny_space, table, spread, tiny_rows):
    """Below a tight bound every architecture is evaluated and the search ends before its budget."""
    high = float(np.quantile(table.costs(tiny_rows), 0.03))
    bounded = Problem(tiny_space, (cost_objective("mflops", table, high=high), score_objective()))
    cheap = StratifiedDraw(spread.between, table.smallest, high, strata=4)
    archive = search(method(name, bounded, cheap, 400), bounded, score=Oracle(tiny_space), seed=0)
    feasible = tiny_rows[table.costs(tiny_rows) <= high]
    assert set(map(tuple, archive.rows)) == set(map(tuple, feasible)) and len(archive) == len(feasible)


@pytest.mark.parametrize("name", ["nsga2", "bayesian"])
def test_random_search_is_beaten_with_half_its_evaluations(name, problem, spread, table):
    """Hypervolume after 320 evaluations against 640 at random, on each of three seeds."""
    for seed in range(3):
        areas = [
            problem.hypervolume(search(m, problem, score=Oracle(problem.space), seed=seed), (table.largest, 10), (table.largest, 100))
            for m in (method(name, problem, spread, 320), method("random search", problem, spread, 640))
        ]
        assert areas[0] > areas[1]


@pytest.mark.parametrize(("scores", "message"), [([70.0, np.nan], "diverged"), ([70.0], "1 values for"), ([70.0] * 99, "values for")])
def test_broken_scores_stop_the_search(scores, message, problem, spread):
    """NaN, too few and too many scores raise."""
    with pytest.raises(ValueError, match=message):
        search(method("nsga2", problem, spread, 40), problem, score=lambda archs: scores, seed=0)


def test_nothing_within_the_bounds_raises(tiny_space, spread):
    """A bound that no architecture keeps is an error that names it, not an endless loop."""
    impossible = Objective("legs", lambda rows: np.zeros(len(rows)), low=3)
    problem = Problem(tiny_space, (impossible, score_objective()))
    with pytest.raises(ValueError, match="no architecture with 3 <= legs <= inf"):
        search(method("nsga2", problem, spread, 40), problem, score=Oracle(tiny_space), seed=0)


def test_selection_is_by_front_then_by_crowding_distance():
    """Front 0 is 0, 1, 2 with 1 between the ends; then the dominated point; points that violate a bound are last."""
    losses = np.array([[0, 4], [2, 1], [4, 0], [5, 5], [0, 0], [1, 1]])
    assert nsga2.select(losses, 6, violation=np.array([0, 0, 0, 0, 2, 1])).tolist() == [0, 2, 1, 3, 5, 4]


def test_the_most_promising_by_hand(tiny_space, problem):
    """With certain predictions the first choice raises the best score by most over most budgets; nothing is chosen twice."""
    cheap, expensive = tiny_space.smallest(), tiny_space.largest()
    archive = Archive(encoding.to_genes([cheap]), problem.cost(encoding.to_genes([cheap])), np.array([60.0]), np.zeros(1, int))
    little_more = Arch.from_genes([*cheap.genes[:-1], cheap.genes[-1] + 1])  # the second stage's expansion, 3 instead of 2
    rows = encoding.to_genes([cheap, expensive, little_more])
    # nothing to gain at 59; 70 at the greatest budget only; 70 at nearly every budget, after which the second adds nothing
    order = bayesian.most_promising(problem, archive, rows, np.array([59.0, 70.0, 70.0]), np.zeros(3), 2)
    assert order[0] == 2
    # 71 for the most expensive adds something only at the largest budget
    order = bayesian.most_promising(problem, archive, rows, np.array([59.0, 71.0, 70.0]), np.zeros(3), 9)
    assert order.tolist() == [2, 1, 0]


def test_uncertainty_is_preferred(tiny_space, problem):
    """Of two equal predictions below the best score, the less certain one is evaluated first."""
    rows = encoding.to_genes([tiny_space.largest(), tiny_space.largest()])
    archive = Archive(rows[:1], problem.cost(rows[:1]), np.array([80.0]), np.zeros(1, int))
    cheap = encoding.to_genes([tiny_space.smallest()])
    archive = archive + Archive(cheap, problem.cost(cheap), np.array([60.0]), np.zeros(1, int))
    order = bayesian.most_promising(problem, archive, rows, np.array([79.0, 79.0]), np.array([0.1, 2.0]), 2)
    assert order.tolist() == [1, 0]

"""Bayesian (surrogate-assisted) search: fit a surrogate, evolve candidates on its predictions, evaluate the most promising.

The acquisition function is the expected improvement of the hypervolume (Emmerich et al., IEEE CEC 2011, computed here
over budgets): with h(c) the best score at a cost of at most c, an architecture of cost c_a and predicted score
N(mu, sigma^2) adds

    sum over budgets c >= c_a of E[max(0, score - h(c))]

where mu is the prediction and sigma its standard deviation (nas/search/surrogate.py). A batch is chosen one by one, each
as if the previous ones had scored their predictions, so that it spreads along the costs by itself. Budgets lie evenly
between the smallest and the largest cost; with several costs, in their box.

The sizes below were tuned on a few synthetic oracles, with 1,500 evaluations of the paper's space and 480 of the default one.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.special import ndtr
from scipy.stats import qmc
from threadpoolctl import threadpool_limits

from nas.runtime.params import Section
from nas.search.archive import Archive, row_keys
from nas.search.nsga2 import select
from nas.search.operators import Draw, crossover, first_population, mutate, unseen
from nas.search.problem import Problem
from nas.search.surrogate import Surrogate

GROWTH = 0.1  # a batch is at least this share of the archive: later rounds learn less from each evaluation
FITTED = 1500  # best evaluated architectures that the surrogate is fitted to: its time grows with their cube
POPULATION = 400  # candidates evolved on the surrogate
GENERATIONS = 8  # of candidates, per round
MUTATIONS = 1.5  # mutated genes per offspring, on average
BUDGETS = 512  # per cost


class BayesianConfig(Section):
    """Budget of Bayesian search."""

    evaluations: int = Field(ge=2)
    start: int = Field(ge=2)  # evaluations before the first surrogate
    batch: int = Field(ge=1)  # evaluations per round, or a tenth of the archive if that is more


@dataclass(frozen=True, eq=False)
class Bayesian:
    """Bayesian search for any number of costs; each round fits a new surrogate."""

    config: BayesianConfig
    draw: Draw  # the first population
    stream: ClassVar[str] = "guided"  # never renamed: the random streams depend on it

    def propose(self, problem: Problem, archive: Archive | None, round_number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.loop.Method`."""
        cfg = self.config
        if archive is None:
            return first_population(problem, self.draw, min(cfg.start, cfg.evaluations), rng)
        n = min(max(cfg.batch, int(GROWTH * len(archive))), cfg.evaluations - len(archive))
        if n < 1 or len(archive) < 2:
            return archive.rows[:0]
        fitted = archive[select(problem.losses(archive.rows, archive.score), FITTED, problem.score.violation(archive.score))]
        with threadpool_limits(1, user_api="blas"):  # its matrices are so small that threads mostly wait for each other
            model = Surrogate.fit(problem.space, fitted.rows, fitted.score, rng)
            rows, mean, std = _candidates(problem, archive, fitted.rows[:POPULATION], model, rng)
        return rows[most_promising(problem, archive, rows, mean, std, n)]


def _candidates(
    problem: Problem, archive: Archive, pool: np.ndarray, model: Surrogate, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """New rows (m, genes) evolved on the surrogate from a pool (p, genes), best first, with predicted mean (m,) and std (m,)."""
    free = sum(len(gene.choices) > 1 for gene in problem.space.genes)
    rows, mean, std, seen = archive.rows[:0], np.empty(0), np.empty(0), set(row_keys(archive.rows))

    def offspring() -> np.ndarray:
        mothers, fathers = pool[rng.integers(len(pool), size=(2, POPULATION))]
        return mutate(problem.space, crossover(mothers, fathers, rng), min(MUTATIONS / max(free, 1), 1.0), rng)

    for _ in range(GENERATIONS):
        new = unseen(problem, offspring, POPULATION, seen)
        if not len(new):  # the region is exhausted
            break
        seen |= set(row_keys(new))
        rows = np.concatenate([rows, new])
        mean, std = (np.concatenate(pair) for pair in zip((mean, std), model.predict_with_std(new)))
        optimistic = mean + std
        best = select(problem.losses(rows, optimistic), POPULATION, problem.score.violation(optimistic))
        pool, rows, mean, std = rows[best], rows[best], mean[best], std[best]
    return rows, mean, std


def most_promising(problem: Problem, archive: Archive, rows: np.ndarray, mean: np.ndarray, std: np.ndarray, n: int) -> np.ndarray:
    """Indices (n,) of the candidates to evaluate, by expected hypervolume improvement, best first; all if there are fewer.

    Args:
        problem: its costs, and the bounds on its score.
        archive: evaluated architectures.
        rows: candidates, (m, genes).
        mean: their predicted scores, (m,).
        std: standard deviation of the prediction, (m,).
        n: number of indices.
    """
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    evaluated, candidates = (
        np.stack([o.loss(np.asarray(o.of(r), np.float64)) for o in problem.costs], axis=1) for r in (archive.rows, rows)
    )
    low, high = (edge(np.concatenate([evaluated, candidates]), axis=0) for edge in (np.min, np.max))
    budgets = high - (high - low) * qmc.Halton(len(low), scramble=False).random(BUDGETS * len(low))  # the largest is one of them
    within = problem.score.within(archive.score)
    floor = max(archive.score.min(), problem.score.low)
    reached = np.where(_affordable(evaluated[within], budgets), archive.score[within, None], floor).max(axis=0, initial=floor)
    affordable = _affordable(candidates, budgets)
    std = np.maximum(std, 1e-9)[:, None]

    def expected_improvement(at: np.ndarray) -> np.ndarray:
        """(candidates, budgets at these indices) of a normal variable over the best score within the budget."""
        z = (mean[:, None] - reached[at]) / std
        expected = std * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
        return np.where(affordable[:, at], expected, 0.0)

    gains = expected_improvement(np.arange(len(budgets)))
    total, chosen = gains.sum(axis=1), []
    for _ in range(min(n, len(rows))):
        chosen.append(int(np.argmax(total)))
        raised = np.flatnonzero(affordable[chosen[-1]] & (reached < mean[chosen[-1]]))
        reached[raised] = mean[chosen[-1]]
        fresh = expected_improvement(raised)
        total += (fresh - gains[:, raised]).sum(axis=1)
        gains[:, raised] = fresh
        total[chosen] = -np.inf
    return np.array(chosen)


def _affordable(costs: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """(n, costs), (b, costs) -> (n, b) bool: whether every cost is within the budget."""
    return (costs[:, None, :] <= budgets[None, :, :]).all(axis=2)

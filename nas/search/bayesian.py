"""Bayesian (surrogate-assisted) search: predict, evolve on the prediction, evaluate only what promises most, and again.

What promises most is what is expected to add most to the hypervolume (Emmerich et al., IEEE CEC 2011, computed here over
budgets): with h(c) the best score that was found at a cost of at most c, an architecture of cost c_a and predicted score
N(mu, sigma^2) adds

    sum over budgets c >= c_a of E[max(0, score - h(c))]

where mu is the prediction and sigma how far off it may be (nas/search/surrogate.py). A batch is chosen one by one, each as
if those before it had scored what was predicted of them, so that it spreads along the costs by itself. Budgets lie evenly
between the least and the greatest cost; with several costs, in the box of them.

The sizes below were tried, on a few made-up oracles, with 1,500 evaluations of the paper's space and 480 of the default one.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.special import ndtr
from scipy.stats import qmc
from threadpoolctl import threadpool_limits

from nas.runtime.params import Section
from nas.search.archive import Evaluated, keys
from nas.search.nsga2 import best
from nas.search.operators import Draw, crossover, first, mutate, unseen
from nas.search.problem import Problem
from nas.search.surrogate import Surrogate

GROWTH = 0.1  # a batch is at least this share of what has been evaluated: later rounds learn less from each
KNOWN = 1500  # of what has been evaluated, the best, which the prediction is made from: its time grows with their cube
POPULATION = 400  # evolved on the prediction
GENERATIONS = 8  # of it, each round
MUTATIONS = 1.5  # genes of a child drawn anew, on average
BUDGETS = 512  # for each cost


class Settings(Section):
    """How much Bayesian search to run."""

    evaluations: int = Field(ge=2)
    start: int = Field(ge=2)  # evaluated before the first prediction
    batch: int = Field(ge=1)  # evaluated a round, or a tenth of what has been evaluated if that is more


@dataclass(frozen=True, eq=False)
class Bayesian:
    """Any number of costs; each round fits a new predictor."""

    settings: Settings
    draw: Draw  # what is evaluated first
    stream: ClassVar[str] = "guided"  # random streams keep their first name, so that draws stay

    def propose(self, problem: Problem, so_far: Evaluated | None, number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.operators.Method`; a round that finds too few new architectures proposes those."""
        s = self.settings
        if so_far is None:
            return first(problem, self.draw, min(s.start, s.evaluations), rng)
        n = min(max(s.batch, int(GROWTH * len(so_far))), s.evaluations - len(so_far))
        if n < 1 or len(so_far) < 2:
            return so_far.rows[:0]
        near = so_far[best(problem.losses(so_far.rows, so_far.score), KNOWN, problem.score.beyond(so_far.score))]
        with threadpool_limits(1, user_api="blas"):  # its matrices are so small that threads mostly wait for each other
            model = Surrogate.fit(problem.space, near.rows, near.score, rng)
            rows, mean, spread = _candidates(problem, so_far, near.rows[:POPULATION], model, rng)
        return rows[most_promising(problem, so_far, rows, mean, spread, n)]


def _candidates(
    problem: Problem, so_far: Evaluated, pool: np.ndarray, model: Surrogate, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """New rows (m, genes) that evolved on the prediction from a pool (p, genes), best first, with its mean (m,) and spread (m,)."""
    free = sum(len(gene.choices) > 1 for gene in problem.space.genes)
    rows, mean, spread, seen = so_far.rows[:0], np.empty(0), np.empty(0), set(keys(so_far.rows))

    def offspring() -> np.ndarray:
        mothers, fathers = pool[rng.integers(len(pool), size=(2, POPULATION))]
        return mutate(problem.space, crossover(mothers, fathers, rng), min(MUTATIONS / max(free, 1), 1.0), rng)

    for _ in range(GENERATIONS):
        new = unseen(problem, offspring, POPULATION, seen)
        if not len(new):  # nothing is left that could be tried
            break
        seen |= set(keys(new))
        rows = np.concatenate([rows, new])
        mean, spread = (np.concatenate(pair) for pair in zip((mean, spread), model.predict_with_spread(new)))
        hoped = mean + spread
        keep = best(problem.losses(rows, hoped), POPULATION, problem.score.beyond(hoped))
        pool, rows, mean, spread = rows[keep], rows[keep], mean[keep], spread[keep]
    return rows, mean, spread


def most_promising(problem: Problem, so_far: Evaluated, rows: np.ndarray, mean: np.ndarray, deviation: np.ndarray, n: int) -> np.ndarray:
    """Places (n,) of the candidates to evaluate, the most promising first; all if there are fewer.

    Args:
        problem: its costs, and the bounds on its score.
        so_far: what has been evaluated.
        rows: candidates, (m, genes).
        mean: their predicted scores, (m,).
        deviation: standard deviation of the prediction, (m,).
        n: how many.
    """
    if not len(rows):
        return np.empty(0, dtype=np.int64)
    found, asked = (np.stack([o.loss(np.asarray(o.of(r), np.float64)) for o in problem.costs], axis=1) for r in (so_far.rows, rows))
    low, high = (edge(np.concatenate([found, asked]), axis=0) for edge in (np.min, np.max))
    budgets = high - (high - low) * qmc.Halton(len(low), scramble=False).random(BUDGETS * len(low))  # the greatest is one of them
    within = problem.score.within(so_far.score)
    floor = max(so_far.score.min(), problem.score.low)
    reached = np.where(_affordable(found[within], budgets), so_far.score[within, None], floor).max(axis=0, initial=floor)
    affordable = _affordable(asked, budgets)
    deviation = np.maximum(deviation, 1e-9)[:, None]

    def gain(at: np.ndarray) -> np.ndarray:
        """(candidates, budgets asked for) expected improvement of a normal variable."""
        over = (mean[:, None] - reached[at]) / deviation
        expected = deviation * (over * ndtr(over) + np.exp(-0.5 * over**2) / np.sqrt(2 * np.pi))
        return np.where(affordable[:, at], expected, 0.0)

    gains = gain(np.arange(len(budgets)))
    total, chosen = gains.sum(axis=1), []
    for _ in range(min(n, len(rows))):
        chosen.append(int(np.argmax(total)))
        raised = np.flatnonzero(affordable[chosen[-1]] & (reached < mean[chosen[-1]]))
        reached[raised] = mean[chosen[-1]]
        fresh = gain(raised)
        total += (fresh - gains[:, raised]).sum(axis=1)
        gains[:, raised] = fresh
        total[chosen] = -np.inf
    return np.array(chosen)


def _affordable(costs: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """(n, costs), (b, costs) -> (n, b) bool: which cost at most the budget in every respect."""
    return (costs[:, None, :] <= budgets[None, :, :]).all(axis=2)

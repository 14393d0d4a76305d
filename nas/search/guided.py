"""Predictor-guided search: predict, evolve on the prediction, evaluate only what promises most, and again.

What promises most is what is expected to add most to the hypervolume (Emmerich et al., IEEE CEC 2011, computed here over
budgets): with h(c) the best score that was found at a cost of at most c, an architecture of cost c_a and predicted score
N(mu, sigma^2) adds

    sum over budgets c >= c_a of E[max(0, score - h(c))]

where sigma is `optimism` times the spread of the forest's trees. A batch is chosen one by one, each as if those before
it had scored what was predicted of them, so that it spreads along the costs by itself. Budgets lie evenly between the
least and the greatest cost; with several costs, in the box of them.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field
from scipy.special import ndtr
from scipy.stats import qmc

from nas.params import Section
from nas.search.evaluated import Evaluated, keys
from nas.search.methods import Draw, children, first, mutants, unseen
from nas.search.nsga2 import best
from nas.search.problem import Problem
from nas.search.surrogate import Surrogate

BUDGETS = 256  # for each cost


class Settings(Section):
    """How much predictor-guided search to run, and how; benchmarks/search.py has what was measured."""

    evaluations: int = Field(ge=2)
    start: int = Field(ge=2)  # evaluated before the first prediction
    batch: int = Field(ge=1)  # evaluated a round, or
    growth: float = Field(ge=0)  # this share of what has been evaluated, if that is more: later rounds learn less from each
    population: int = Field(ge=2)  # evolved on the prediction
    generations: int = Field(ge=1)
    mutation_probability: float = Field(gt=0, le=1)  # a gene
    optimism: float = Field(ge=0)  # standard deviations of the trees that a prediction may be off
    trees: int = Field(ge=1)  # of the forest
    max_depth: int = Field(ge=1)
    features: float = Field(gt=0, le=1)  # share of the genes that each question is chosen from


@dataclass(frozen=True, eq=False)
class Guided:
    """Any number of costs; each round fits a new predictor."""

    settings: Settings
    draw: Draw  # what is evaluated first
    name: ClassVar[str] = "guided"

    def propose(self, problem: Problem, so_far: Evaluated | None, number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.methods.Method`; a round that finds too few new architectures proposes those."""
        s = self.settings
        if so_far is None:
            return first(problem, self.draw, min(s.start, s.evaluations), rng)
        n = min(max(s.batch, int(s.growth * len(so_far))), s.evaluations - len(so_far))
        if n < 1 or len(so_far) < 2:
            return so_far.rows[:0]
        forest = {"trees": s.trees, "max_depth": s.max_depth, "features": s.features, "seed": int(rng.integers(2**31))}
        model = Surrogate.fit(problem.space, so_far.rows, so_far.score, **forest)
        rows, mean, spread = self._candidates(problem, so_far, model, rng)
        return rows[most_promising(problem, so_far, rows, mean, s.optimism * spread, n)]

    def _candidates(
        self, problem: Problem, so_far: Evaluated, model: Surrogate, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """New rows (m, genes) that evolved on the prediction, best first, with its mean (m,) and spread (m,)."""
        s = self.settings
        losses, beyond = problem.losses(so_far.rows, so_far.score), problem.score.beyond(so_far.score)
        pool, seen = so_far.rows[best(losses, s.population, beyond)], set(keys(so_far.rows))
        rows, mean, spread = so_far.rows[:0], np.empty(0), np.empty(0)

        def offspring() -> np.ndarray:
            mothers, fathers = pool[rng.integers(len(pool), size=(2, s.population))]
            return mutants(problem.space, children(mothers, fathers, rng), s.mutation_probability, rng)

        for _ in range(s.generations):
            new = unseen(problem, offspring, s.population, seen)
            if not len(new):  # nothing is left that could be tried
                break
            seen |= set(keys(new))
            rows = np.concatenate([rows, new])
            mean, spread = (np.concatenate(pair) for pair in zip((mean, spread), model.predict_with_spread(new)))
            hoped = mean + s.optimism * spread
            keep = best(problem.losses(rows, hoped), s.population, problem.score.beyond(hoped))
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

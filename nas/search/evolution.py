"""Evolutionary search for the accuracy-cost front, and random search with the same budget beside it.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.5: a random population, then rounds of mutations and
crossovers of the best architecture per bucket of cost. Nothing here knows where scores and costs come from.

No architecture is evaluated twice, so evaluations count distinct ones: population + rounds * (mutations +
crossovers), 5632 with the paper's 512, 20, 128, 128. (Its text says 5248, which is 128 + 20 * 256.) Beside
the smallest network, as in the release, the first population has the largest: sandwich training favours both.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from nas.runtime.params import Section
from nas.search.archive import Evaluated, keys
from nas.search.operators import Draw, crossover, first, mutate, unseen
from nas.search.problem import Problem
from nas.spaces import encoding


class Settings(Section):
    """How much evolution to run; the paper's numbers are 512, 128, 128, 20, 0.2 (its release), 10."""

    population: int = Field(ge=1)  # architectures drawn at random at first, the smallest and the largest among them
    mutations: int = Field(ge=0)  # a round
    crossovers: int = Field(ge=0)  # a round
    rounds: int = Field(ge=0)
    mutation_probability: float = Field(gt=0, le=1)  # a gene
    bucket: float = Field(gt=0)  # MFLOPs; one parent per bucket of cost


@dataclass(frozen=True, eq=False)
class Evolution:
    """The paper's: rounds of mutations and crossovers of the best architecture per bucket of cost.

    With several costs a bucket is a cell, as many along each further cost as along the first, and of the cells' best
    those of the Pareto set are parents: cells are so many that without it nearly everything would be one.
    """

    settings: Settings
    draw: Draw  # the first population
    stream: ClassVar[str] = "evolution"

    def propose(self, problem: Problem, so_far: Evaluated | None, number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.operators.Method`; a round that finds too few new architectures proposes those."""
        s = self.settings
        if so_far is None:
            return first(problem, self.draw, s.population, rng)
        if number > s.rounds:
            return so_far.rows[:0]
        pool = self._parents(problem, so_far)
        seen = set(keys(so_far.rows))

        def mutated() -> np.ndarray:
            return mutate(problem.space, pool[rng.integers(len(pool), size=s.mutations)], s.mutation_probability, rng)

        def crossed() -> np.ndarray:
            mothers, fathers = pool[rng.integers(len(pool), size=(2, s.crossovers))]
            return crossover(mothers, fathers, rng)

        found = unseen(problem, mutated, s.mutations, seen)
        return np.concatenate([found, unseen(problem, crossed, s.crossovers, seen | set(keys(found)))])

    def _parents(self, problem: Problem, so_far: Evaluated) -> np.ndarray:
        within = problem.score.within(so_far.score)
        asked = so_far[within] if within.any() else so_far
        if len(problem.costs) == 1:
            return asked.rows[parents(asked, self.settings.bucket)]
        asked = asked[problem.front(asked)] if within.any() else asked
        costs = np.stack([o.loss(o.of(asked.rows)) for o in problem.costs], axis=1)
        span = np.ptp(costs, axis=0)
        widths = self.settings.bucket * np.where(span > 0, span, 1) / (span[0] if span[0] > 0 else 1)
        return asked.rows[_best_of_cells(costs, asked.score, widths)]


@dataclass(frozen=True, eq=False)
class RandomSearch:
    """Distinct architectures at random, in blocks; what the others have to beat.

    The smallest and the largest network are among them, as they are in the other methods' populations.
    """

    evaluations: int
    block: int  # evaluated in a round
    draw: Draw
    stream: ClassVar[str] = "random search"

    def propose(self, problem: Problem, so_far: Evaluated | None, number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.operators.Method`; if the draws stop yielding new architectures there are fewer than asked for."""
        if so_far is None:
            return first(problem, self.draw, min(self.block, self.evaluations), rng)
        size = min(self.block, self.evaluations - len(so_far))
        return unseen(problem, lambda: encoding.to_rows(self.draw(self.block, rng)), size, set(keys(so_far.rows)))


def parents(evaluated: Evaluated, bucket: float) -> np.ndarray:
    """Indices of the best of each bucket of cost, cheapest bucket first; of equals the earliest evaluated.

    A bucket of width b around k b holds the costs in [(k - 1/2) b, (k + 1/2) b). As in the code that the
    paper builds on, a bucket's best stays even if a cheaper bucket holds a better one.
    """
    return _best_of_cells(evaluated.cost[:, None], evaluated.score, np.array([bucket]))


def _best_of_cells(costs: np.ndarray, score: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """(n, k) costs, (n,), (k,) -> indices of the best of each cell, in the order of the cells."""
    place = np.unique(np.floor(costs / widths + 0.5).astype(np.int64), axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((np.arange(len(score)), -score, place))
    return order[np.unique(place[order], return_index=True)[1]]

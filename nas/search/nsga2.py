"""NSGA-II: fronts of fronts, the lonelier first within one, and offspring of the winners of tournaments.

Deb, Pratap, Agarwal and Meyarivan, IEEE Transactions on Evolutionary Computation 6(2), 2002. Differences: nothing is
evaluated twice, and the next population is chosen from everything evaluated so far instead of from the last
population and its offspring, so there is no state but what was evaluated.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from nas.evaluation import metrics
from nas.runtime.params import Section
from nas.search.archive import Evaluated, keys
from nas.search.operators import Draw, crossover, first, mutate, unseen
from nas.search.problem import Problem


class Settings(Section):
    """How much NSGA-II to run."""

    evaluations: int = Field(ge=1)
    population: int = Field(ge=2)  # also the size of the first round
    offspring: int = Field(ge=1)  # a round
    crossover_probability: float = Field(ge=0, le=1)  # of a child; else it is a mutant of its mother alone
    mutation_probability: float = Field(gt=0, le=1)  # a gene


@dataclass(frozen=True, eq=False)
class Nsga2:
    """Any number of objectives; needs no buckets."""

    settings: Settings
    draw: Draw  # the first population
    stream: ClassVar[str] = "nsga2"

    def propose(self, problem: Problem, so_far: Evaluated | None, number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.operators.Method`; a round that finds too few new architectures proposes those."""
        s = self.settings
        if so_far is None:
            return first(problem, self.draw, min(s.population, s.evaluations), rng)
        alive = so_far[best(problem.losses(so_far.rows, so_far.score), s.population, problem.score.beyond(so_far.score))]
        n = min(s.offspring, s.evaluations - len(so_far))

        def offspring() -> np.ndarray:
            # survivors are in order, so the winner of a tournament of two is the lower number
            mothers, fathers = alive.rows[rng.integers(len(alive), size=(2, 2, n)).min(axis=0)]
            crossed = rng.random(n) < s.crossover_probability
            return mutate(problem.space, np.where(crossed[:, None], crossover(mothers, fathers, rng), mothers), s.mutation_probability, rng)

        return unseen(problem, offspring, n, set(keys(so_far.rows))) if n > 0 else so_far.rows[:0]


def best(losses: np.ndarray, n: int, beyond: np.ndarray | None = None) -> np.ndarray:
    """Indices of the n best points, best first: by front, within a front the more distant from its neighbours first.

    Args:
        losses: (points, m), lower is better.
        n: how many; all if there are fewer.
        beyond: (points,) by how much bounds are broken; those that keep them come first, then the smallest breach.
    """
    beyond = np.zeros(len(losses)) if beyond is None else beyond
    within, without = np.flatnonzero(beyond == 0), np.flatnonzero(beyond > 0)
    order = without[np.argsort(beyond[without], kind="stable")]
    if len(within):
        rank = metrics.ranks(losses[within], enough=n)
        lonely = np.zeros(len(within))
        for number in np.unique(rank):
            at = np.flatnonzero(rank == number)
            lonely[at] = metrics.crowding(losses[within[at]])
        order = np.append(within[np.lexsort((-lonely, rank))], order)
    return order[:n]

"""NSGA-II: selection by rank and crowding distance (both in `nas.evaluation.metrics`), offspring of tournament winners.

Deb, Pratap, Agarwal and Meyarivan, IEEE Transactions on Evolutionary Computation 6(2), 2002. Differences: no
architecture is evaluated twice, and survivors are selected from the whole archive instead of the last population
and its offspring, so the archive is the only state.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from nas.evaluation import metrics
from nas.runtime.params import Section
from nas.search.archive import Archive, row_keys
from nas.search.operators import Draw, crossover, first_population, mutate, unseen
from nas.search.problem import Problem


class Nsga2Config(Section):
    """Budget and rates of NSGA-II."""

    evaluations: int = Field(ge=1)
    population: int = Field(ge=2)  # also the size of the first round
    offspring: int = Field(ge=1)  # per round
    crossover_probability: float = Field(ge=0, le=1)  # per offspring; the others are mutations of one parent
    mutation_probability: float = Field(gt=0, le=1)  # per gene


@dataclass(frozen=True, eq=False)
class Nsga2:
    """NSGA-II for any number of objectives."""

    config: Nsga2Config
    draw: Draw  # the first population
    stream: ClassVar[str] = "nsga2"

    def propose(self, problem: Problem, archive: Archive | None, round_number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.loop.Method`."""
        cfg = self.config
        if archive is None:
            return first_population(problem, self.draw, min(cfg.population, cfg.evaluations), rng)
        survivors = archive[select(problem.losses(archive.rows, archive.score), cfg.population, problem.score.violation(archive.score))]
        n = min(cfg.offspring, cfg.evaluations - len(archive))

        def offspring() -> np.ndarray:
            # survivors are sorted, so the winner of a binary tournament is the lower index
            mothers, fathers = survivors.rows[rng.integers(len(survivors), size=(2, 2, n)).min(axis=0)]
            crossed = rng.random(n) < cfg.crossover_probability
            rows = np.where(crossed[:, None], crossover(mothers, fathers, rng), mothers)
            return mutate(problem.space, rows, cfg.mutation_probability, rng)

        return unseen(problem, offspring, n, set(row_keys(archive.rows))) if n > 0 else archive.rows[:0]


def select(losses: np.ndarray, n: int, violation: np.ndarray | None = None) -> np.ndarray:
    """Indices of the n best points, best first: by non-dominated rank, then by crowding distance, largest first.

    Args:
        losses: (points, m), lower is better.
        n: number of indices; all points if there are fewer.
        violation: (points,) amount by which bounds are violated; feasible points come first, then the smallest violation.
    """
    violation = np.zeros(len(losses)) if violation is None else violation
    feasible, infeasible = np.flatnonzero(violation == 0), np.flatnonzero(violation > 0)
    order = infeasible[np.argsort(violation[infeasible], kind="stable")]
    if len(feasible):
        rank = metrics.front_ranks(losses[feasible], enough=n)
        crowding = np.zeros(len(feasible))
        for number in np.unique(rank):
            at = np.flatnonzero(rank == number)
            crowding[at] = metrics.crowding_distance(losses[feasible[at]])
        order = np.append(feasible[np.lexsort((-crowding, rank))], order)
    return order[:n]

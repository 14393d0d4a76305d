"""Evolutionary search for the accuracy-cost Pareto front, and random search as its baseline.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.5: a random population, then rounds of mutations and
crossovers of the best architecture per bucket of cost.

No architecture is evaluated twice, so evaluations count distinct ones: population + rounds * (mutations +
crossovers), 5632 with the paper's 512, 20, 128, 128. (Its text says 5248, which is 128 + 20 * 256.) The first
population contains the smallest architecture, as in the release, and the largest: sandwich training favours both.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from nas.runtime.params import Section
from nas.search.archive import Archive, row_keys
from nas.search.operators import Draw, crossover, first_population, mutate, unseen
from nas.search.problem import Problem


class EvolutionConfig(Section):
    """Budget and rates of evolution; the paper has 512, 128, 128, 20, 0.2 (its release), 10."""

    population: int = Field(ge=1)  # architectures of the first population, the smallest and the largest among them
    mutations: int = Field(ge=0)  # per round
    crossovers: int = Field(ge=0)  # per round
    rounds: int = Field(ge=0)
    mutation_probability: float = Field(gt=0, le=1)  # per gene
    bucket: float = Field(gt=0)  # MFLOPs; one parent per bucket of cost


class RandomSearchConfig(Section):
    """Budget of random search."""

    evaluations: int = Field(ge=1)


@dataclass(frozen=True, eq=False)
class Evolution:
    """Rounds of mutations and crossovers of the best architecture per bucket of cost.

    With several costs a bucket is a cell with equally many intervals along each cost. Only the cells' best that are
    Pareto-optimal are parents: cells are so many that otherwise nearly every architecture would be a parent.
    """

    config: EvolutionConfig
    draw: Draw  # the first population
    stream: ClassVar[str] = "evolution"

    def propose(self, problem: Problem, archive: Archive | None, round_number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.loop.Method`."""
        cfg = self.config
        if archive is None:
            return first_population(problem, self.draw, cfg.population, rng)
        if round_number > cfg.rounds:
            return archive.rows[:0]
        pool = self._parents(problem, archive)
        seen = set(row_keys(archive.rows))

        def mutations() -> np.ndarray:
            return mutate(problem.space, pool[rng.integers(len(pool), size=cfg.mutations)], cfg.mutation_probability, rng)

        def crossovers() -> np.ndarray:
            mothers, fathers = pool[rng.integers(len(pool), size=(2, cfg.crossovers))]
            return crossover(mothers, fathers, rng)

        mutated = unseen(problem, mutations, cfg.mutations, seen)
        return np.concatenate([mutated, unseen(problem, crossovers, cfg.crossovers, seen | set(row_keys(mutated)))])

    def _parents(self, problem: Problem, archive: Archive) -> np.ndarray:
        within = problem.score.within(archive.score)
        eligible = archive[within] if within.any() else archive
        if len(problem.costs) == 1:
            return eligible.rows[best_per_bucket(eligible, self.config.bucket)]
        eligible = eligible[problem.front(eligible)] if within.any() else eligible
        costs = np.stack([o.loss(o.of(eligible.rows)) for o in problem.costs], axis=1)
        span = np.ptp(costs, axis=0)
        widths = self.config.bucket * np.where(span > 0, span, 1) / (span[0] if span[0] > 0 else 1)
        return eligible.rows[_best_per_cell(costs, eligible.score, widths)]


@dataclass(frozen=True, eq=False)
class RandomSearch:
    """Distinct random architectures, in blocks: the baseline of the other methods.

    The smallest and the largest architecture are among them, as in the other methods' first populations.
    """

    evaluations: int
    block: int  # evaluations per round
    draw: Draw
    stream: str = "random search"

    def propose(self, problem: Problem, archive: Archive | None, round_number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.loop.Method`."""
        if archive is None:
            return first_population(problem, self.draw, min(self.block, self.evaluations), rng)
        size = min(self.block, self.evaluations - len(archive))
        return unseen(problem, lambda: problem.encode(self.draw(self.block, rng)), size, set(row_keys(archive.rows)))


def best_per_bucket(archive: Archive, bucket: float) -> np.ndarray:
    """Indices of the best architecture of each bucket of cost, cheapest bucket first; ties go to the earliest evaluated.

    A bucket of width b around k b holds the costs in [(k - 1/2) b, (k + 1/2) b). As in the code that the paper
    builds on, a bucket's best is a parent even if a cheaper bucket holds a better one.
    """
    return _best_per_cell(archive.cost[:, None], archive.score, np.array([bucket]))


def _best_per_cell(costs: np.ndarray, score: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """(n, k) costs, (n,) scores, (k,) cell widths -> indices of the best of each cell, in the order of the cells."""
    cell = np.unique(np.floor(costs / widths + 0.5).astype(np.int64), axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((np.arange(len(score)), -score, cell))
    return order[np.unique(cell[order], return_index=True)[1]]

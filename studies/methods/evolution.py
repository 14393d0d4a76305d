"""Evolution over a HardCoRe-NAS space under a target latency: the baseline of the search by gradients.

As once-for-all networks are searched (arXiv:1908.09791, section 3.4): a random population, then rounds of mutations and
crossovers of the best architectures so far, by the loop of `nas.search.loop`. Every evaluated architecture is within the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field

from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.differentiable.hardcore_nas.relaxed import RelaxedArch, discretize, max_entropy_start, sample_one_hot
from nas.runtime.params import Section
from nas.search.archive import Archive, row_keys
from nas.search.operators import Draw, crossover, first_population, mutate, unseen
from nas.search.problem import Objective, Problem, score_objective
from nas.spaces import encoding
from nas.spaces.hardcore_nas import Arch, Space
from nas.spaces.mbconv import Gene

TOLERANCE = 1e-9  # relative: sums of the same latencies in another order are within the target too

Count = Annotated[int, Field(ge=0)]


class EvolutionConfig(Section):
    """Section `oneshot.evolution`: budget and rates."""

    population: Annotated[int, Field(ge=2)]  # architectures of the first population
    parents: Annotated[int, Field(ge=2)]  # the best so far, from which mutations and crossovers are made
    mutations: Count  # per round
    crossovers: Count  # per round
    rounds: Count
    mutation_probability: Annotated[float, Field(gt=0, le=1)]  # per depth of a stage and configuration of a block


@dataclass(frozen=True)
class GeneSpace:
    """A HardCoRe-NAS space as rows of genes: for each stage its depth, then the configuration of each block, -1 if the block is absent."""

    space: Space

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """The columns of a row."""
        configurations = tuple(range(len(self.space.configurations)))
        columns = []
        for stage in self.space.stages:
            columns.append(Gene(f"{stage.name}.depth", stage.depths))
            columns += [Gene(f"{stage.name}.{block}", configurations) for block in range(stage.depths[-1])]
        return tuple(columns)

    def smallest(self) -> Arch:
        """The smallest depth of each stage, everywhere the first configuration."""
        return Arch((0,) * stage.depths[0] for stage in self.space.stages)

    def largest(self) -> Arch:
        """See `Space.largest`."""
        return self.space.largest()

    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """n architectures -> (n, genes) int64."""
        rows = np.full((len(archs), len(self.genes)), -1, dtype=np.int64)
        for row, arch in zip(rows, archs):
            for start, stage in zip(self._starts, arch):
                row[start] = len(stage)
                row[start + 1 : start + 1 + len(stage)] = stage
        return rows

    def decode(self, rows: np.ndarray) -> list[Arch]:
        """(n, genes) -> n architectures."""
        return [Arch(tuple(row[start + 1 : start + 1 + row[start]]) for start in self._starts) for row in np.asarray(rows).tolist()]

    def without_absent(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n, genes): -1 for blocks beyond the depth of their stage."""
        sizes = np.diff([*self._starts, len(self.genes)])
        depth = rows[:, np.repeat(self._starts, sizes)]
        block = np.concatenate([np.arange(-1, size - 1) for size in sizes])
        return np.where(block < depth, rows, -1)

    @cached_property
    def _starts(self) -> list[int]:
        """(stages,) column of each stage's depth."""
        return np.cumsum([0, *(1 + stage.depths[-1] for stage in self.space.stages)])[:-1].tolist()


def latency_problem(space: Space, latency: ExpectedLatency, target_ms: float) -> Problem:
    """The score under a bound on the latency.

    Raises:
        InfeasibleTarget: if no architecture is as fast as the target.
    """
    genes, limit_ms = GeneSpace(space), latency.check(target_ms) * (1 + TOLERANCE)

    def latency_ms(rows: np.ndarray) -> np.ndarray:
        return np.array([latency.of(arch) for arch in genes.decode(rows)], dtype=np.float64)

    objectives = (Objective("latency_ms", latency_ms, high=limit_ms), score_objective("top1_held_out"))
    return Problem(genes, objectives, encode=genes.encode, decode=genes.decode)


def max_entropy_draw(latency: ExpectedLatency, target_ms: float) -> Draw:
    """Draws from the distribution of largest entropy whose mean latency is within the target.

    Uniform draws hardly ever meet a tight target. About half of these do.
    """
    start = max_entropy_start(latency, target_ms, 1)

    def sample(n: int, rng: np.random.Generator) -> list[Arch]:
        alphas, betas = sample_one_hot(start, n, rng)
        return [discretize(RelaxedArch(alpha, beta)) for alpha, beta in zip(alphas, betas)]

    return sample


@dataclass(frozen=True, eq=False)
class Evolution:
    """Rounds of mutations and crossovers of the best architectures so far; a method of `nas.search.loop`."""

    config: EvolutionConfig
    draw: Draw  # the first population
    stream: str

    def propose(self, problem: Problem, archive: Archive | None, round_number: int, rng: np.random.Generator) -> np.ndarray:
        """See `nas.search.loop.Method`."""
        cfg, space = self.config, problem.space
        if archive is None:
            return first_population(problem, self.draw, cfg.population, rng)
        if round_number > cfg.rounds:
            return archive.rows[:0]
        parents = archive.rows[np.argsort(-archive.score, kind="stable")[: cfg.parents]]
        seen = set(row_keys(archive.rows))

        def mutations() -> np.ndarray:
            rows = parents[rng.integers(len(parents), size=cfg.mutations)]
            return mutate_blocks(space, rows, cfg.mutation_probability, rng)

        def crossovers() -> np.ndarray:
            mothers, fathers = parents[rng.integers(len(parents), size=(2, cfg.crossovers))]
            return cross_blocks(space, mothers, fathers, rng)

        mutated = unseen(problem, mutations, cfg.mutations, seen)
        return np.concatenate([mutated, unseen(problem, crossovers, cfg.crossovers, seen | set(row_keys(mutated)))])


def mutate_blocks(space: GeneSpace, rows: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """(n, genes) -> (n, genes): depths and configurations mutated; added blocks have random configurations."""
    complete = np.where(rows < 0, encoding.random_genes(space, len(rows), rng), rows)
    return space.without_absent(mutate(space, complete, probability, rng))


def cross_blocks(space: GeneSpace, mothers: np.ndarray, fathers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, genes) twice -> (n, genes): depths from either parent, configurations from either parent that has the block."""
    return space.without_absent(crossover(np.where(mothers < 0, fathers, mothers), np.where(fathers < 0, mothers, fathers), rng))

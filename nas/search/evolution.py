"""Evolutionary search for the accuracy-cost front, and random search with the same budget beside it.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.5: a random population, then rounds of mutants and
crossovers of the best architecture per bucket of cost. Nothing here knows where scores and costs come from.

No architecture is evaluated twice, so evaluations count distinct ones: population + rounds * (mutants +
crossovers), 5632 with the paper's 512, 20, 128, 128. (Its text says 5248, which is 128 + 20 * 256.) Beside
the smallest network, as in the release, the first population has the largest: sandwich training favours both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Self

import numpy as np
import pandas as pd
from pydantic import Field

from nas import encoding
from nas.params import Section
from nas.seeding import generator
from nas.space import Arch, SearchSpace

TRIES = 200  # batches of proposals before a round makes do with what it has found

Score = Callable[[list[Arch]], Sequence[float]]  # higher is better, e.g. top-1 in percent
Cost = Callable[[np.ndarray], np.ndarray]  # rows (n, genes) -> (n,), e.g. MFLOPs
Draw = Callable[[int, np.random.Generator], list[Arch]]  # n architectures at random


class Settings(Section):
    """How much evolution to run; the paper's numbers are 512, 128, 128, 20, 0.2 (its release), 10."""

    population: int = Field(ge=1)  # architectures drawn at random at first, the smallest and the largest among them
    mutants: int = Field(ge=0)  # a round
    crossovers: int = Field(ge=0)  # a round
    rounds: int = Field(ge=0)
    mutation_probability: float = Field(gt=0, le=1)  # a gene
    bucket: float = Field(gt=0)  # MFLOPs; one parent per bucket of cost


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Distinct architectures with cost and score, in the order in which they were evaluated."""

    rows: np.ndarray  # (n, genes) int64
    cost: np.ndarray  # (n,) float64, the unit of the cost function (MFLOPs)
    score: np.ndarray  # (n,) float64, higher is better (top-1 in percent)
    round: np.ndarray  # (n,) int64, 0 is the random population

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Self) -> Self:
        return type(self)(*(np.concatenate([a, b]) for a, b in zip(self.to_arrays().values(), other.to_arrays().values())))

    @property
    def archs(self) -> list[Arch]:
        return encoding.from_rows(self.rows)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """For a checkpoint; `Evaluated(**arrays)` reads it back."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to_frame(self, space: SearchSpace) -> pd.DataFrame:
        """One column a gene, then `mflops`, `top1`, `round`."""
        genes = pd.DataFrame(self.rows, columns=[g.name for g in space.genes])
        return genes.assign(mflops=self.cost, top1=self.score, round=self.round)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, space: SearchSpace) -> Self:
        """The inverse of `to_frame`; other columns are ignored.

        Raises:
            ValueError: if a column is missing.
        """
        genes = [g.name for g in space.genes]
        if missing := [c for c in (*genes, "mflops", "top1", "round") if c not in frame]:
            raise ValueError(f"column {missing[0]!r} is missing; evaluated sub-networks of space {space.name!r} have one for each gene")
        columns = (frame[name].to_numpy(t) for name, t in (("mflops", np.float64), ("top1", np.float64), ("round", np.int64)))
        return cls(frame[genes].to_numpy(np.int64), *columns)


@dataclass(frozen=True)
class Bounds:
    """The costs that are of interest, both ends included, and the costs that there are."""

    low: float
    high: float
    achievable: tuple[float, float]  # cost of the cheapest and of the dearest architecture

    def __post_init__(self) -> None:
        if self.low > self.high or self.low > self.achievable[1] or self.high < self.achievable[0]:
            raise ValueError(
                f"no architecture costs between {self.low:g} and {self.high:g}; the space has {self.achievable[0]:.3f} to "
                f"{self.achievable[1]:.3f}; change params.yaml: search.min_mflops or search.max_mflops"
            )

    def hold(self, costs: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) bool."""
        return (costs >= self.low) & (costs <= self.high)


def evolve(
    space: SearchSpace,
    settings: Settings,
    *,
    score: Score,
    mflops: Cost,
    draw: Draw,
    seed: int,
    bounds: Bounds | None = None,
    evaluated: Evaluated | None = None,
    on_round: Callable[[Evaluated, int], None] = lambda evaluated, round: None,
) -> Evaluated:
    """Every architecture that evolution evaluated, its population first.

    A round depends only on the seed, its number and what has been evaluated, so a run that goes on from
    `evaluated` ends as the undisturbed one would have. A round that finds too few new architectures in a
    bounded number of tries evaluates those; one that finds none ends the search.

    Args:
        space: for mutation and crossover; its smallest and largest networks are in the population (if the bounds allow it).
        settings: sizes.
        score: of architectures, called once a round with all the new ones.
        mflops: cost of rows.
        draw: the first population.
        seed: of all choices.
        bounds: on the cost; None for the whole space.
        evaluated: whole rounds of an earlier run, as `on_round` got them.
        on_round: called after each round with everything so far and the round's number.

    Raises:
        ValueError: if not one architecture within the bounds is found, or a score is not finite.
    """

    def population(rng: np.random.Generator) -> Iterable[Arch]:
        first = [space.smallest(), space.largest()]
        return _new(partial(draw, settings.population, rng), settings.population, first, set(), mflops, bounds)

    def offspring(so_far: Evaluated, rng: np.random.Generator) -> list[Arch]:
        pool = encoding.from_rows(so_far.rows[parents(so_far, settings.bucket)])
        seen = set(so_far.archs)

        def mutants() -> list[Arch]:
            chosen = rng.integers(len(pool), size=settings.mutants)
            return [space.mutate(pool[i], settings.mutation_probability, rng) for i in chosen]

        def crossovers() -> list[Arch]:
            pairs = rng.integers(len(pool), size=(settings.crossovers, 2))
            return [space.cross(pool[i], pool[j], rng) for i, j in pairs]

        mutated = _new(mutants, settings.mutants, [], seen, mflops, bounds)
        return mutated + _new(crossovers, settings.crossovers, [], seen | set(mutated), mflops, bounds)

    done = -1 if evaluated is None else int(evaluated.round.max())
    for number in range(done + 1, settings.rounds + 1):
        rng = generator(seed, "evolution", number)
        found = population(rng) if evaluated is None else offspring(evaluated, rng)
        if not found:
            break
        evaluated = _evaluate(found, number, score, mflops, evaluated)
        on_round(evaluated, number)
    return _something(evaluated, bounds)


def random_search(
    space: SearchSpace,
    n: int,
    *,
    block: int,
    score: Score,
    mflops: Cost,
    draw: Draw,
    seed: int,
    bounds: Bounds | None = None,
    evaluated: Evaluated | None = None,
    on_block: Callable[[Evaluated, int], None] = lambda evaluated, block: None,
) -> Evaluated:
    """n distinct architectures at random, evaluated in blocks (column `round`); what evolution has to beat.

    The smallest and the largest network are among them, as they are in evolution's population. Arguments, resuming and errors as
    in `evolve`. If the draws stop yielding new architectures there are fewer than n.
    """
    while evaluated is None or len(evaluated) < n:
        number = 0 if evaluated is None else int(evaluated.round.max()) + 1
        size = min(block, n - (0 if evaluated is None else len(evaluated)))
        rng = generator(seed, "random search", number)
        first, seen = ([space.smallest(), space.largest()], set()) if evaluated is None else ([], set(evaluated.archs))
        found = _new(partial(draw, size, rng), size, first, seen, mflops, bounds)
        if not found:
            break
        evaluated = _evaluate(found, number, score, mflops, evaluated)
        on_block(evaluated, number)
    return _something(evaluated, bounds)


def parents(evaluated: Evaluated, bucket: float) -> np.ndarray:
    """Indices of the best of each bucket of cost, cheapest bucket first; of equals the earliest evaluated.

    A bucket of width b around k b holds the costs in [(k - 1/2) b, (k + 1/2) b). As in the code that the
    paper builds on, a bucket's best stays even if a cheaper bucket holds a better one.
    """
    place = np.floor(evaluated.cost / bucket + 0.5).astype(np.int64)
    order = np.lexsort((np.arange(len(evaluated)), -evaluated.score, place))
    return order[np.unique(place[order], return_index=True)[1]]


def _new(propose: Callable[[], list[Arch]], n: int, first: list[Arch], seen: set[Arch], mflops: Cost, bounds: Bounds | None) -> list[Arch]:
    """Up to n distinct architectures within the bounds that were not seen: those in `first`, then proposed ones."""
    found: dict[Arch, None] = {}  # in the order of discovery
    batch = first
    for _ in range(TRIES):
        if batch:
            allowed = [True] * len(batch) if bounds is None else bounds.hold(mflops(encoding.to_rows(batch)))
            found |= {arch: None for arch, ok in zip(batch, allowed) if ok and arch not in seen}
        if len(found) >= n:
            break
        batch = propose()
    return list(found)[:n]


def _evaluate(archs: list[Arch], number: int, score: Score, mflops: Cost, before: Evaluated | None) -> Evaluated:
    rows = encoding.to_rows(archs)
    scores = np.asarray(score(archs), dtype=np.float64)
    if scores.shape != (len(archs),):
        raise ValueError(f"score gave {scores.shape} for {len(archs)} architectures; one number each is needed")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"the score of {archs[bad]} is {scores[bad]}; has the supernet's training diverged?")
    new = Evaluated(rows, np.asarray(mflops(rows), dtype=np.float64), scores, np.full(len(archs), number))
    return new if before is None else before + new


def _something(evaluated: Evaluated | None, bounds: Bounds | None) -> Evaluated:
    if evaluated is None:
        within = "" if bounds is None else f" between {bounds.low:g} and {bounds.high:g} MFLOPs"
        raise ValueError(f"{TRIES} populations drawn, and no architecture{within} among them; widen the bounds in params.yaml search")
    return evaluated

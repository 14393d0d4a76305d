"""Evolution and random search over the one-shot model within a target latency: what the search by gradients is compared with.

As once-for-all networks are searched (arXiv:1908.09791, section 3.4): a random population, then rounds of mutations and of children
of the best so far. Every network that is scored is within the target, and none is scored twice, so evaluations count
different networks. Nothing here knows where scores come from.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from nas.cost.latency_hardcore_nas import Latency
from nas.differentiable.hardcore_nas.effort import Settings
from nas.differentiable.hardcore_nas.gradients import draw
from nas.differentiable.hardcore_nas.relaxed import Point, certain
from nas.differentiable.hardcore_nas.start import balanced
from nas.spaces.hardcore_nas import Arch, Space

TRIES = 200  # proposals for each network that a round is to have, before it makes do with fewer
ROUNDING = 1e-9  # relative: a sum of latencies in another order is within the target too


@dataclass(frozen=True)
class Scored:
    """A network and how good it is."""

    arch: Arch
    score: float  # higher is better


class Within:
    """The networks of a space that take at most so long.

    Raises:
        InfeasibleTarget: if no network is as fast as the target; states the range.
    """

    def __init__(self, space: Space, latency: Latency, target_ms: float) -> None:
        self.space, self._latency, self._limit_ms = space, latency, latency.check(target_ms) * (1 + ROUNDING)
        self._even: Point = balanced(latency, target_ms, 1)

    def __contains__(self, arch: Arch) -> bool:
        return self._latency.of(arch) <= self._limit_ms

    def random(self, rng: np.random.Generator) -> Iterator[Arch]:
        """Networks drawn without end, in the target or not: as evenly as the target allows.

        By uniform draws hardly one of a tight target would be met. The most even distribution whose mean is the target meets
        it about every second time, and is what uniform draws that meet it come near to where there are many blocks.
        """
        while True:
            alpha, beta = draw(self._even, 1, rng)
            yield certain(Point(alpha[0].numpy(), beta[0].numpy()))


class Method(Protocol):
    """A way of searching."""

    def propose(self, found: Sequence[Scored], number: int, rng: np.random.Generator) -> list[Arch]:
        """Networks to score next, new and within the target; none at the end.

        Args:
            found: in the rounds before.
            number: of the round, from 0.
        """


@dataclass(frozen=True)
class Evolution:
    """Rounds of mutations and children of the best so far."""

    within: Within
    settings: Settings

    def propose(self, found: Sequence[Scored], number: int, rng: np.random.Generator) -> list[Arch]:
        s, seen = self.settings, {one.arch for one in found}
        if number == 0:
            return unseen(self.within.random(rng), self.within, s.population, seen)
        if number > s.rounds:
            return []
        best = [one.arch for one in sorted(found, key=lambda one: -one.score)[: s.parents]]

        def mutations() -> Iterator[Arch]:
            while True:
                yield mutant(self.within.space, best[rng.integers(len(best))], s.mutation_probability, rng)

        def children() -> Iterator[Arch]:
            while True:
                yield child(best[rng.integers(len(best))], best[rng.integers(len(best))], rng)

        changed = unseen(mutations(), self.within, s.mutations, seen)
        return changed + unseen(children(), self.within, s.crossovers, seen | set(changed))


@dataclass(frozen=True)
class RandomSearch:
    """As many networks as evolution scores, at random."""

    within: Within
    evaluations: int
    block: int  # a round

    def propose(self, found: Sequence[Scored], number: int, rng: np.random.Generator) -> list[Arch]:
        size = min(self.block, self.evaluations - len(found))
        return unseen(self.within.random(rng), self.within, size, {one.arch for one in found})


def search(
    method: Method,
    score: Callable[[Arch], float],
    rng: Callable[[int], np.random.Generator],
    found: Sequence[Scored] = (),
    first: int = 0,
) -> Iterator[list[Scored]]:
    """All that is scored so far, after each round.

    Args:
        score: higher is better.
        rng: number of a round -> a generator of its own, so that a search can be gone on with.
        found: in earlier rounds.
        first: number of the round to go on with.
    """
    so_far, number = list(found), first
    while proposed := method.propose(so_far, number, rng(number)):
        so_far = [*so_far, *(Scored(arch, score(arch)) for arch in proposed)]
        number += 1
        yield so_far


def unseen(proposed: Iterable[Arch], within: Within, n: int, seen: set[Arch]) -> list[Arch]:
    """n different networks within the target, none of those seen; fewer, if they do not turn up in so many tries."""
    found: dict[Arch, None] = {}
    for arch in islice(proposed, TRIES * n):
        if len(found) == n:
            break
        if arch not in seen and arch in within:
            found[arch] = None
    return list(found)


def mutant(space: Space, arch: Arch, probability: float, rng: np.random.Generator) -> Arch:
    """Each depth and each configuration drawn anew with this probability; blocks that are added have random ones."""
    stages = []
    for offered, stage in zip(space.stages, arch):
        fresh = rng.integers(len(space.configurations), size=offered.depths[-1])
        kept = rng.random(len(fresh)) >= probability
        fresh[: len(stage)] = np.where(kept[: len(stage)], stage, fresh[: len(stage)])
        depth = rng.choice(offered.depths) if rng.random() < probability else len(stage)
        stages.append(tuple(fresh[:depth].tolist()))
    return Arch(stages)


def child(mother: Arch, father: Arch, rng: np.random.Generator) -> Arch:
    """Each stage's depth from either parent, each block's configuration from either that has the block."""
    stages = []
    for one, other in zip(mother, father):
        depth = len(one if rng.random() < 0.5 else other)
        pairs = [[stage[b] for stage in (one, other) if b < len(stage)] for b in range(depth)]
        stages.append(tuple(pair[rng.integers(len(pair))] for pair in pairs))
    return Arch(stages)

"""One loop for all ways of searching: a method proposes, what it proposes is evaluated, round by round.

A method is an object whose proposals depend on what has been evaluated, on the round's number and on a generator
made from both: nothing else is carried. So a search that stopped goes on from its last whole round, and within
the round from the cache of scores, and ends as the undisturbed one.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from nas.runtime.seeding import generator
from nas.search.archive import Cache, Evaluated, keys
from nas.search.problem import Problem
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace

TRIES = 200  # batches of proposals before a round makes do with what it has found

Score = Callable[[list[Arch]], Iterable[float]]  # higher is better, e.g. top-1 in percent; one at a time if it is a generator
Draw = Callable[[int, np.random.Generator], list[Arch]]  # n architectures at random


class Method(Protocol):
    """A way of searching."""

    stream: str  # names its random streams

    def propose(self, problem: Problem, so_far: Evaluated | None, number: int, rng: np.random.Generator) -> np.ndarray:
        """Rows (m, genes) to evaluate next: distinct, new, within the bounds; none at the end of the search.

        Args:
            problem: space, objectives and bounds.
            so_far: everything evaluated in whole rounds; None before the first.
            number: of this round, from 0.
            rng: this round's.
        """


def search(
    method: Method,
    problem: Problem,
    *,
    score: Score,
    seed: int,
    cache: Cache | None = None,
    evaluated: Evaluated | None = None,
    on_round: Callable[[Evaluated, int], None] = lambda evaluated, round: None,
) -> Evaluated:
    """Every architecture that a method looked at, each scored once.

    Args:
        method: what proposes.
        problem: space, objectives and bounds.
        score: of architectures, called once a round with all that the cache does not know. If what it gives comes one by
            one (a generator), a run that is killed has lost one score at most.
        seed: of all choices.
        cache: scores of earlier searches or of an interrupted round; None for a fresh one.
        evaluated: whole rounds of an earlier run, as `on_round` got them.
        on_round: called after each round with everything so far and the round's number.

    Raises:
        ValueError: if not one architecture within the bounds is found, or a score is not finite.
    """
    cache = Cache() if cache is None else cache
    number = 0 if evaluated is None else int(evaluated.round.max()) + 1
    while len(rows := method.propose(problem, evaluated, number, generator(seed, method.stream, number))):
        new = Evaluated(rows, problem.cost(rows), _scores(rows, score, cache), np.full(len(rows), number))
        evaluated = new if evaluated is None else evaluated + new
        on_round(evaluated, number)
        number += 1
    if evaluated is None:
        bounds = [f"{o.low:g} <= {o.name} <= {o.high:g}" for o in (*problem.costs, *problem.constraints)]
        raise ValueError(
            f"{TRIES} populations drawn, and no architecture with {' and '.join(bounds)} among them; widen search.bounds in params.yaml"
        )
    return evaluated


def first(problem: Problem, draw: Draw, n: int, rng: np.random.Generator) -> np.ndarray:
    """The first n rows: the smallest and the largest network, as far as the bounds allow, and drawn ones."""
    ends = encoding.to_rows([problem.space.smallest(), problem.space.largest()])
    return unseen(problem, lambda: encoding.to_rows(draw(n, rng)), n, set(), start=ends)


def unseen(problem: Problem, propose: Callable[[], np.ndarray], n: int, seen: set[bytes], start: np.ndarray | None = None) -> np.ndarray:
    """Up to n distinct rows within the bounds that were not seen: those of `start`, then proposed ones, in a bounded number of tries.

    Args:
        problem: for the bounds.
        propose: gives rows (m, genes) at each call.
        n: how many.
        seen: `keys` of those that are not wanted.
        start: rows that come first.
    """
    found: dict[bytes, np.ndarray] = {}  # in the order of discovery
    batches = (propose() for _ in range(TRIES))
    batch = next(batches) if start is None else start
    while batch is not None:
        fresh = batch[[key not in seen for key in keys(batch)]] if n > 0 else batch[:0]
        fresh = fresh[problem.allowed(fresh)] if len(fresh) else fresh
        for key, row in zip(keys(fresh), fresh):
            found.setdefault(key, row)
        batch = next(batches, None) if len(found) < n else None
    genes = len(problem.space.genes)
    return np.array(list(found.values())[:n], dtype=np.int64).reshape(-1, genes)


def mutate(space: SearchSpace, rows: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """(n, genes) -> (n, genes): each gene drawn anew with the given probability (it may come out as it was)."""
    return np.where(rng.random(rows.shape) < probability, encoding.random_rows(space, len(rows), rng), rows)


def crossover(mothers: np.ndarray, fathers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, genes) twice -> (n, genes): each gene from either parent, with probability 1/2."""
    return np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)


def _scores(rows: np.ndarray, score: Score, cache: Cache) -> np.ndarray:
    """(n, genes) -> (n,) from the cache, or scored and cached one by one."""
    known = [cache.get(row) for row in rows]
    missing = [i for i, value in enumerate(known) if value is None]
    archs, scored = encoding.from_rows(rows[missing]), 0
    for value in score(archs) if archs else ():
        scored += 1
        if scored > len(archs):
            break
        i = missing[scored - 1]
        known[i] = float(value)
        if not np.isfinite(known[i]):
            raise ValueError(f"the score of {archs[scored - 1]} is {value}; has the supernet's training diverged?")
        cache.put(rows[i], known[i])
    if scored != len(archs):
        raise ValueError(f"score gave {scored} numbers for {len(archs)} architectures; one number each is needed")
    return np.array(known, dtype=np.float64)

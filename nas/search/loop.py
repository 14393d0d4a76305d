"""The search loop shared by all methods: a method proposes architectures, the loop evaluates them, round by round.

A proposal depends only on the archive, the round's number and a generator made from both; a method carries no other
state. A stopped search resumes after its last complete round, and within the round from the cache of scores, and ends
as the undisturbed one.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from nas.runtime.seeding import generator
from nas.search.archive import Archive, ScoreCache
from nas.search.operators import MAX_BATCHES
from nas.search.problem import Problem

Score = Callable[[list[Any]], Iterable[float]]  # architectures -> higher is better, e.g. top-1 in percent; may be a generator


class Method(Protocol):
    """A search method."""

    stream: str  # names its random streams

    def propose(self, problem: Problem, archive: Archive | None, round_number: int, rng: np.random.Generator) -> np.ndarray:
        """Rows (m, genes) to evaluate next: distinct, new, within the bounds; fewer than usual if no more turn up, none at the end.

        Args:
            problem: space, objectives and bounds.
            archive: everything evaluated in complete rounds; None before the first.
            round_number: from 0.
            rng: generator of this round.
        """


def search(
    method: Method,
    problem: Problem,
    *,
    score: Score,
    seed: int,
    cache: ScoreCache | None = None,
    archive: Archive | None = None,
    on_round: Callable[[Archive, int], None] = lambda archive, round_number: None,
) -> Archive:
    """Run a method to its end; each architecture is scored once.

    Args:
        method: proposes architectures.
        problem: space, objectives and bounds.
        score: called once per round with all architectures that are not in the cache. If it is a generator, a run that is
            killed loses at most one score.
        seed: of all random draws.
        cache: scores of earlier searches or of an interrupted round; None for an empty one.
        archive: complete rounds of an earlier run, as `on_round` received them.
        on_round: called after each round with the archive and the round's number.

    Raises:
        ValueError: if no architecture within the bounds turns up, or a score is NaN or infinite.
    """
    cache = ScoreCache() if cache is None else cache
    number = 0 if archive is None else int(archive.round.max()) + 1
    while len(rows := method.propose(problem, archive, number, generator(seed, method.stream, number))):
        new = Archive(rows, problem.cost(rows), _evaluate(problem, rows, score, cache), np.full(len(rows), number))
        archive = new if archive is None else archive + new
        on_round(archive, number)
        number += 1
    if archive is None:
        bounds = [f"{o.low:g} <= {o.name} <= {o.high:g}" for o in (*problem.costs, *problem.constraints)]
        raise ValueError(f"{MAX_BATCHES} populations held no architecture with {' and '.join(bounds)}; widen search.bounds in params.yaml")
    return archive


def _evaluate(problem: Problem, rows: np.ndarray, score: Score, cache: ScoreCache) -> np.ndarray:
    """(n, genes) -> (n,) scores from the cache; missing ones are scored and cached one by one."""
    scores = [cache.get(row) for row in rows]
    missing = [i for i, value in enumerate(scores) if value is None]
    archs, count = problem.decode(rows[missing]), 0
    for value in score(archs) if archs else ():
        count += 1
        if count > len(archs):
            break
        i = missing[count - 1]
        scores[i] = float(value)
        if not np.isfinite(scores[i]):
            raise ValueError(f"the score of {archs[count - 1]} is {value}; has the supernet's training diverged?")
        cache.put(rows[i], scores[i])
    if count != len(archs):
        raise ValueError(f"score returned {count} values for {len(archs)} architectures; one value per architecture is needed")
    return np.array(scores, dtype=np.float64)

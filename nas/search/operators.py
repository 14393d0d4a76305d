"""Variation operators on rows of genes (mutation, uniform crossover), and the choice of new architectures to evaluate."""

from collections.abc import Callable
from typing import Any

import numpy as np

from nas.search.archive import row_keys
from nas.search.problem import Problem
from nas.spaces import encoding
from nas.spaces.mbconv import SearchSpace

MAX_BATCHES = 200  # proposals are drawn at most this often per round; then the round has fewer architectures

Draw = Callable[[int, np.random.Generator], list[Any]]  # n random architectures of the problem's space


def mutate(space: SearchSpace, rows: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """(n, genes) -> (n, genes): each gene is redrawn with the given probability (and may come out unchanged)."""
    return np.where(rng.random(rows.shape) < probability, encoding.random_genes(space, len(rows), rng), rows)


def crossover(mothers: np.ndarray, fathers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, genes) twice -> (n, genes): each gene comes from either parent with probability 1/2."""
    return np.where(rng.random(mothers.shape) < 0.5, mothers, fathers)


def first_population(problem: Problem, draw: Draw, n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, genes): the smallest and the largest architecture, as far as the bounds allow, then drawn ones."""
    ends = problem.encode([problem.space.smallest(), problem.space.largest()])
    return unseen(problem, lambda: problem.encode(draw(n, rng)), n, set(), start=ends)


def unseen(problem: Problem, propose: Callable[[], np.ndarray], n: int, seen: set[bytes], start: np.ndarray | None = None) -> np.ndarray:
    """Up to n distinct new rows within the bounds: those of `start`, then proposed ones, in at most `MAX_BATCHES` batches.

    Args:
        problem: supplies the bounds.
        propose: returns rows (m, genes) at each call.
        n: number of rows.
        seen: `row_keys` to leave out.
        start: rows that come first.
    """
    accepted: dict[bytes, np.ndarray] = {}  # in the order of discovery
    batches = (propose() for _ in range(MAX_BATCHES))
    batch = next(batches) if start is None else start
    while batch is not None:
        fresh = batch[[key not in seen for key in row_keys(batch)]] if n > 0 else batch[:0]
        fresh = fresh[problem.allowed(fresh)] if len(fresh) else fresh
        for key, row in zip(row_keys(fresh), fresh):
            accepted.setdefault(key, row)
        batch = next(batches, None) if len(accepted) < n else None
    genes = len(problem.space.genes)
    return np.array(list(accepted.values())[:n], dtype=np.int64).reshape(-1, genes)

"""Independent work in a few threads, in order: torch lets go of the interpreter inside its operators."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(function: Callable[[A], B], items: Iterable[A], threads: int) -> Iterator[B]:
    """function of each item, in order, by this many threads; what a call raises is raised where its result would have come."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

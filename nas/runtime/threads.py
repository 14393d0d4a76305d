"""Background threads: results in order, errors raised where the result would come. torch releases the interpreter in its operators."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Generic, Self, TypeVar

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


def map_threads(function: Callable[[A], B], values: Iterable[A], threads: int) -> Iterator[B]:
    """The function of each value, in order, computed by this many threads."""
    if threads == 1:
        yield from map(function, values)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(function, values)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Prefetcher(Generic[T]):
    """Iterates over compute(start), compute(start + 1), ..., computed in that order by one thread, up to `ahead` in advance.

    AttentiveNAS (arXiv:2011.09011), section 4.2: sampling runs asynchronously and does not slow training down.
    `compute` is a function of the step only (its generator is seeded by seed, stage and step), so the results do not depend
    on timing. Use as a context manager: leaving waits for the running step and drops the others.
    """

    def __init__(self, compute: Callable[[int], T], start: int, ahead: int) -> None:
        if ahead < 1:
            raise ValueError(f"ahead {ahead}: at least 1 step is prefetched")
        self._compute, self._steps = compute, count(start)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._queue: deque[Future[T]] = deque()
        for _ in range(ahead):
            self._submit()

    def _submit(self) -> None:
        self._queue.append(self._thread.submit(self._compute, next(self._steps)))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next step's result.

        Raises:
            RuntimeError: after `close`; else any error of `compute`.
        """
        if not self._queue:
            raise RuntimeError("the prefetcher is closed")
        result = self._queue.popleft()
        self._submit()
        return result.result()

    def close(self) -> None:
        """Wait for the running step and drop the others; may be called twice."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._queue.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

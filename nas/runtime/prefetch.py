"""Prefetching: results for coming training steps, computed in a background thread.

AttentiveNAS (arXiv:2011.09011), section 4.2: sampling runs asynchronously and does not slow training down.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates over make(start), make(start + 1), ..., computed in that order by one thread, up to `ahead` early.

    make is a function of the step alone (its generator seeded by seed, stage and step), so what
    comes out does not depend on timing. What make raises is raised where its result would have
    come. Use as a context manager: leaving waits for the step under way and drops the rest.
    """

    def __init__(self, make: Callable[[int], T], start: int, ahead: int) -> None:
        if ahead < 1:
            raise ValueError(f"ahead {ahead}: at least 1 step is computed early")
        self._make, self._steps = make, count(start)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._coming: deque[Future[T]] = deque()
        for _ in range(ahead):
            self._submit()

    def _submit(self) -> None:
        self._coming.append(self._thread.submit(self._make, next(self._steps)))

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next step's result.

        Raises:
            RuntimeError: after `close`; else what make raised.
        """
        if not self._coming:
            raise RuntimeError("closed: no step is computed any more")
        ready = self._coming.popleft()
        self._submit()
        return ready.result()

    def close(self) -> None:
        """Wait for the step under way and drop the rest; closing twice is fine."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

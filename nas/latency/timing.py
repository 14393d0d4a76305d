"""Timing many programs on a machine that is never quite quiet: in turns, in rounds, each beside a reference.

A round visits every program once, in an order of its own; a visit runs the reference, then the program until it is
warm, then once more, which counts. What slows the whole machine for a while slows the reference as well and
cancels; what hits a single visit is gone in the median over the rounds. The clock is an argument.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

LEAST = 2  # rounds: what is seen once has no spread
WARM_S = 0.0005  # seconds that a program runs before the run that counts: short ones need more than one run
MOST_WARM = 20  # runs
NEIGHBOURS = 9  # visits whose references are taken together
LOW = 10  # percentile of them


class Clock(Protocol):
    """Marks points in time without disturbing what is timed."""

    def mark(self) -> Any:
        """This point in time."""

    def seconds(self, marks: list[Any]) -> np.ndarray:
        """(n + 1,) marks -> (n,) seconds from each to the next."""


@dataclass(frozen=True)
class HostClock:
    """For work that is done when its call returns."""

    now: Callable[[], float] = time.perf_counter  # seconds

    def mark(self) -> float:
        return self.now()

    def seconds(self, marks: list[float]) -> np.ndarray:
        return np.diff(marks)


@dataclass(frozen=True)
class Program:
    """Calls that run one after the other, each on what the one before returned."""

    calls: tuple[Callable[[Any], Any], ...]
    start: Any  # argument of the first

    def laps(self, clock: Clock) -> np.ndarray:
        """(calls,) seconds of each call, after a run or more to warm up."""
        warm_s = 0.0
        for _ in range(MOST_WARM):
            warm_s += self._run(clock).sum()
            if warm_s >= WARM_S:
                break
        return self._run(clock)

    def _run(self, clock: Clock) -> np.ndarray:
        x, marks = self.start, [clock.mark()]
        for call in self.calls:
            x = call(x)
            marks.append(clock.mark())
        return clock.seconds(marks)


@dataclass(frozen=True, eq=False)
class Rounds:
    """Raw measurements; the calls of all programs follow each other in one row."""

    laps: np.ndarray  # (rounds, calls of all programs) seconds
    references: np.ndarray  # (rounds, programs) seconds that the reference took just before
    orders: np.ndarray  # (rounds, programs) the programs in the order they were visited
    seconds: float  # that all of it took

    @classmethod
    def none(cls, programs: list[Program]) -> "Rounds":
        """Before the first round."""
        n = len(programs)
        return cls(np.zeros((0, sum(len(p.calls) for p in programs))), np.zeros((0, n)), np.zeros((0, n), np.int64), 0.0)

    def __len__(self) -> int:
        return len(self.laps)

    def plus(self, laps: np.ndarray, references: np.ndarray, order: np.ndarray, seconds: float) -> "Rounds":
        """With one round more, that took so many seconds."""
        rows = ((self.laps, laps), (self.references, references), (self.orders, order))
        return Rounds(*(np.concatenate([all_of, row[None]]) for all_of, row in rows), self.seconds + seconds)

    def slowness(self) -> np.ndarray:
        """(rounds, programs) how much slower than usual the machine was at each visit: around 1.

        A low percentile of the references of the visits around it in its round, over the median of that: a reference
        that was itself interrupted is too long, never too short.
        """
        out = np.empty_like(self.references)
        for row, order, found in zip(self.references, self.orders, out):
            found[order] = moving_percentile(row[order], NEIGHBOURS, LOW)
        return out / np.median(out)

    def normalised(self, calls: list[int]) -> np.ndarray:
        """(rounds, calls of all programs) seconds at the machine's usual speed.

        Args:
            calls: (programs,) number of calls of each.
        """
        return self.laps / np.repeat(self.slowness(), calls, axis=1)


def moving_percentile(values: np.ndarray, window: int, percent: float) -> np.ndarray:
    """(n,) -> (n,) percentile of the window around each value, which is shorter at the ends.

    Args:
        window: odd number of values.
    """
    half = window // 2
    padded = np.concatenate([np.full(half, np.nan), values, np.full(half, np.nan)])
    return np.nanpercentile(np.lib.stride_tricks.sliding_window_view(padded, window), percent, axis=1)


def measure(
    programs: list[Program],
    reference: Program,
    clock: Clock,
    rounds: int,
    limit_s: float,
    order: Callable[[int], np.ndarray],
    done: Rounds | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Rounds]:
    """Rounds so far, after each round; ends when there are enough or the next one would pass the limit.

    Args:
        programs: to be timed.
        reference: something short that stays the same, to tell how fast the machine is.
        rounds: how many there are to be.
        limit_s: seconds for all of them, those that are done included.
        order: number of a round -> (programs,) permutation.
        done: rounds of an earlier call, to be continued.
        now: seconds, for the limit.

    Raises:
        ValueError: if fewer than `LEAST` rounds fit into the limit.
    """
    found = done if done is not None else Rounds.none(programs)
    starts = np.cumsum([0, *(len(p.calls) for p in programs)])
    with _undisturbed():
        while len(found) < rounds and (len(found) < LEAST or found.seconds * (1 + 1 / len(found)) <= limit_s):
            began, sequence = now(), order(len(found))
            laps, references = np.empty(starts[-1]), np.empty(len(programs))
            for i in sequence:
                if len(found) < LEAST and found.seconds + now() - began > limit_s:
                    raise ValueError(
                        f"{LEAST} rounds over {len(programs)} programs do not fit into {limit_s:.0f} s; raise params.yaml: "
                        "latency.limit_s, or lower latency.batch"
                    )
                references[i] = reference.laps(clock).sum()
                laps[starts[i] : starts[i + 1]] = programs[i].laps(clock)
            found = found.plus(laps, references, sequence, now() - began)
            yield found


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Without garbage collection in between."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

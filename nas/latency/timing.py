"""Timing of many programs on a machine with other load: interleaved, in rounds, each beside a reference.

A round visits every program once, in an order of its own. A visit runs the reference, then the program until it is warm,
then once more, which counts. A slowdown of the whole machine affects the reference too and cancels; an interruption of a
single visit is gone in the median over the rounds. The clock is an argument.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

MIN_ROUNDS = 2  # a single round has no spread
WARM_UP_S = 0.0005  # seconds that a program runs before the run that counts: short ones need more than one run
MAX_WARM_UP_RUNS = 20
WINDOW_VISITS = 9  # visits whose references give the slowdown of one
LOW_PERCENTILE = 10  # of these references


class Clock(Protocol):
    """Marks points in time without disturbing the timed program."""

    def mark(self) -> Any:
        """This point in time."""

    def seconds(self, marks: list[Any]) -> np.ndarray:
        """(n + 1,) marks -> (n,) seconds from each to the next."""


@dataclass(frozen=True)
class HostClock:
    """A clock for calls that return when their work is done."""

    now: Callable[[], float] = time.perf_counter  # seconds

    def mark(self) -> float:
        return self.now()

    def seconds(self, marks: list[float]) -> np.ndarray:
        return np.diff(marks)


@dataclass(frozen=True)
class Program:
    """Calls that run one after the other, each on the result of the one before."""

    calls: tuple[Callable[[Any], Any], ...]
    start: Any  # argument of the first

    def laps(self, clock: Clock) -> np.ndarray:
        """(calls,) seconds of each call, after at least one warm-up run."""
        warm_s = 0.0
        for _ in range(MAX_WARM_UP_RUNS):
            warm_s += self._run(clock).sum()
            if warm_s >= WARM_UP_S:
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
    """Raw measurements; the calls of all programs are concatenated along the columns."""

    laps: np.ndarray  # (rounds, calls of all programs) seconds
    references: np.ndarray  # (rounds, programs) seconds of the reference just before
    orders: np.ndarray  # (rounds, programs) the programs in the order of the visits
    seconds: float  # in total

    @classmethod
    def none(cls, programs: list[Program]) -> "Rounds":
        """Before the first round."""
        n = len(programs)
        return cls(np.zeros((0, sum(len(p.calls) for p in programs))), np.zeros((0, n)), np.zeros((0, n), np.int64), 0.0)

    def __len__(self) -> int:
        return len(self.laps)

    def plus(self, laps: np.ndarray, references: np.ndarray, order: np.ndarray, seconds: float) -> "Rounds":
        """With one more round of this many seconds."""
        arrays = ((self.laps, laps), (self.references, references), (self.orders, order))
        return Rounds(*(np.concatenate([before, new[None]]) for before, new in arrays), self.seconds + seconds)

    def slowdown(self) -> np.ndarray:
        """(rounds, programs) slowdown of the machine at each visit, around 1.

        A low percentile of the references of the visits around it in its round, over the median of all visits' percentiles: an
        interrupted reference is too long, never too short.
        """
        out = np.empty_like(self.references)
        for row, order, slowdown in zip(self.references, self.orders, out):
            slowdown[order] = moving_percentile(row[order], WINDOW_VISITS, LOW_PERCENTILE)
        return out / np.median(out)

    def normalised(self, calls: list[int]) -> np.ndarray:
        """(rounds, calls of all programs) seconds at the machine's usual speed.

        Args:
            calls: (programs,) number of calls of each.
        """
        return self.laps / np.repeat(self.slowdown(), calls, axis=1)


def moving_percentile(values: np.ndarray, window: int, percent: float) -> np.ndarray:
    """(n,) -> (n,) percentile of the window around each value; windows are shorter at the ends.

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
    """Yields all rounds so far after each round; ends with the last round or before the limit is passed.

    Args:
        programs: to time.
        reference: a short program that measures the speed of the machine.
        rounds: their number.
        limit_s: seconds for all rounds, including those already done.
        order: number of a round -> (programs,) permutation.
        done: rounds of an earlier call, to continue.
        now: seconds, for the limit.

    Raises:
        ValueError: if fewer than `MIN_ROUNDS` rounds fit into the limit.
    """
    measured = done if done is not None else Rounds.none(programs)
    starts = np.cumsum([0, *(len(p.calls) for p in programs)])
    with _without_gc():
        while len(measured) < rounds and (len(measured) < MIN_ROUNDS or measured.seconds * (1 + 1 / len(measured)) <= limit_s):
            began, sequence = now(), order(len(measured))
            laps, references = np.empty(starts[-1]), np.empty(len(programs))
            for i in sequence:
                if len(measured) < MIN_ROUNDS and measured.seconds + now() - began > limit_s:
                    raise ValueError(
                        f"{MIN_ROUNDS} rounds over {len(programs)} programs do not fit into {limit_s:.0f} s; raise params.yaml: "
                        "latency.limit_s, or lower latency.batch"
                    )
                references[i] = reference.laps(clock).sum()
                laps[starts[i] : starts[i + 1]] = programs[i].laps(clock)
            measured = measured.plus(laps, references, sequence, now() - began)
            yield measured


@contextmanager
def _without_gc() -> Iterator[None]:
    """Without garbage collection."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

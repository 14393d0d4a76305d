"""Background threads give the results of a plain loop."""

import threading

import numpy as np
import pytest

from nas.runtime.threads import Prefetcher, map_threads
from nas.sampling.uniform import Unconstrained


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order(threads):
    """The results have the order of the values, whichever call finishes first."""
    assert list(map_threads(lambda n: n * n, range(20), threads)) == [n * n for n in range(20)]


def test_two_calls_run_at_the_same_time():
    """Two calls that wait for each other both end."""
    meet = threading.Barrier(2, timeout=20)
    assert len(list(map_threads(lambda _: meet.wait(), range(2), 2))) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_the_function_is_raised_in_its_place(threads):
    """Earlier results are delivered first; the error is the function's own."""

    def reciprocal(n: int) -> float:
        return 1 / n

    results = map_threads(reciprocal, [1, 2, 0, 4], threads)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_prefetched_results_equal_direct_ones(tiny_space):
    """Architectures of steps 7 to 26, drawn from generators seeded by step, are the same."""

    def draw(step):
        return Unconstrained(tiny_space)(3, np.random.default_rng([0, step]))

    with Prefetcher(draw, start=7, ahead=4) as prefetched:
        results = [next(prefetched) for _ in range(20)]

    assert results == [draw(step) for step in range(7, 27)]


def test_an_error_of_a_prefetched_step_is_raised_in_its_place():
    """Steps before the failing one are delivered first."""

    def compute(step):
        if step == 2:
            raise ArithmeticError("step 2")
        return step

    with Prefetcher(compute, start=0, ahead=5) as prefetched:
        assert [next(prefetched), next(prefetched)] == [0, 1]
        with pytest.raises(ArithmeticError, match="step 2"):
            next(prefetched)


def test_at_most_ahead_steps_are_prefetched():
    """After n results at most n + ahead steps have been started, in order, in one other thread."""
    computed, threads = [], set()

    def compute(step):
        computed.append(step)
        threads.add(threading.get_ident())

    with Prefetcher(compute, start=0, ahead=3) as prefetched:
        for _ in range(5):
            next(prefetched)

    assert computed == list(range(len(computed)))
    assert 5 <= len(computed) <= 8
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_closing_ends_the_thread():
    """After the block the thread has ended and the next step is an error."""
    before = threading.active_count()
    with Prefetcher(lambda step: step, start=0, ahead=2) as prefetched:
        assert next(prefetched) == 0

    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        next(prefetched)


def test_ahead_of_zero_is_an_error():
    """Nothing would be delivered."""
    with pytest.raises(ValueError, match="ahead 0"):
        Prefetcher(lambda step: step, start=0, ahead=0)

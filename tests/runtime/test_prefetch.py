"""Steps computed ahead in a thread are those computed on the spot."""

import threading

import numpy as np
import pytest

from nas.runtime.prefetch import Prefetcher
from nas.sampling.uniform import Unconstrained


def test_ahead_equals_on_the_spot(tiny_space):
    """Architectures of steps 7 to 26, drawn from generators counted by step."""

    def make(step):
        return Unconstrained(tiny_space)(3, np.random.default_rng([0, step]))

    with Prefetcher(make, start=7, ahead=4) as coming:
        found = [next(coming) for _ in range(20)]

    assert found == [make(step) for step in range(7, 27)]


def test_an_error_comes_where_its_result_would_have():
    """Steps before the broken one are delivered first."""

    def make(step):
        if step == 2:
            raise ArithmeticError("step 2")
        return step

    with Prefetcher(make, start=0, ahead=5) as coming:
        assert [next(coming), next(coming)] == [0, 1]
        with pytest.raises(ArithmeticError, match="step 2"):
            next(coming)


def test_no_more_is_computed_than_asked_for():
    """After n results at most n + ahead steps have ever been started, in order, on one other thread."""
    made, threads = [], set()

    def make(step):
        made.append(step)
        threads.add(threading.get_ident())

    with Prefetcher(make, start=0, ahead=3) as coming:
        for _ in range(5):
            next(coming)

    assert made == list(range(len(made)))
    assert 5 <= len(made) <= 8
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_closing_ends_the_thread():
    """After the block no thread of ours is left and asking for more is an error."""
    before = threading.active_count()
    with Prefetcher(lambda step: step, start=0, ahead=2) as coming:
        assert next(coming) == 0

    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        next(coming)


def test_nothing_ahead_is_refused():
    """ahead counts the steps computed early; 0 would never deliver."""
    with pytest.raises(ValueError, match="ahead 0"):
        Prefetcher(lambda step: step, start=0, ahead=0)

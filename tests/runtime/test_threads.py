"""Work side by side gives what work one after the other gives."""

import threading

import pytest

from nas.runtime.threads import side_by_side


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order(threads):
    """Whoever finishes first, the results stand in the order of the items."""
    assert list(side_by_side(lambda n: n * n, range(20), threads)) == [n * n for n in range(20)]


def test_two_calls_run_at_the_same_time():
    """Two calls that wait for each other both end."""
    meet = threading.Barrier(2, timeout=20)
    assert len(list(side_by_side(lambda _: meet.wait(), range(2), 2))) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_where_its_result_would_have(threads):
    """The results before it are there, the error is the function's own."""

    def reciprocal(n: int) -> float:
        return 1 / n

    results = side_by_side(reciprocal, [1, 2, 0, 4], threads)
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)

"""The Pareto family selected from an archive, on numbers small enough to do by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search import family
from nas.search.archive import Archive
from nas.spaces.mbconv import Arch, StageArch


def evaluated(cost: list[float], score: list[float]) -> Archive:
    """Architectures with resolutions 1, 2, ..."""
    rows = np.array([Arch(i + 1, 8, (StageArch(8, 1, 3, 1),), 8).genes for i in range(len(cost))])
    return Archive(rows, np.array(cost, float), np.array(score, float), np.zeros(len(cost), int))


#                   1   2   3   4   5   6    front: 1 2 4 6 (3 is worse than 2 and more expensive, 5 no better than 4)
SEARCHED = evaluated([1, 2, 3, 4, 6, 16], [50, 60, 55, 70, 70, 80])


def test_a_size_spreads_over_doublings():
    """Of costs 1, 2, 4, 16 three models are the ends and the one at their geometric mean, 4."""
    assert [m.cost for m in family.pareto_family(SEARCHED, "toy", size=3)] == [1, 4, 16]


def test_a_small_front_is_the_family():
    """A family of ten models from a front of four has four."""
    assert [m.arch.resolution for m in family.pareto_family(SEARCHED, "toy", size=10)] == [1, 2, 4, 6]


@given(
    points=st.lists(st.tuples(st.floats(1, 1000), st.floats(0, 100)), min_size=1, max_size=40),
    size=st.integers(1, 9),
)
def test_a_family_is_ascending_distinct_and_not_dominated(points, size):
    """Cost and accuracy both rise, and no evaluated architecture is as cheap and better."""
    cost, score = map(list, zip(*points))
    models = family.pareto_family(evaluated(cost, score), "toy", size=size)
    assert all(a.cost < b.cost and a.score < b.score for a, b in pairwise(models))
    assert not any(c <= m.cost and s > m.score for m in models for c, s in points)
    assert 1 <= len(models) <= size


def test_an_empty_family_is_refused():
    """The error names the key of params.yaml."""
    with pytest.raises(ValueError, match=r"params\.yaml: search\.models: 0"):
        family.pareto_family(SEARCHED, "toy", size=0)

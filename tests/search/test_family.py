"""The family picked from a front, and the hypervolume, on numbers small enough to do by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search import family
from nas.search.archive import Evaluated
from nas.spaces.mbconv import Arch, StageArch


def evaluated(cost: list[float], score: list[float]) -> Evaluated:
    """Architectures told apart by their resolution: 1, 2, ..."""
    rows = np.array([Arch(i + 1, 8, (StageArch(8, 1, 3, 1),), 8).genes for i in range(len(cost))])
    return Evaluated(rows, np.array(cost, float), np.array(score, float), np.zeros(len(cost), int))


#                   1   2   3   4   5   6    front: 1 2 4 6 (3 is worse than 2 and dearer, 5 no better than 4)
SEARCHED = evaluated([1, 2, 3, 4, 6, 16], [50, 60, 55, 70, 70, 80])


def test_a_size_spreads_over_doublings():
    """Three of 1, 2, 4, 16: the ends and the one next to their geometric mean, 4."""
    assert [m.cost for m in family.family(SEARCHED, "toy", size=3)] == [1, 4, 16]


def test_a_small_front_is_taken_whole():
    """Ten models asked for, four worth having."""
    assert [m.arch.resolution for m in family.family(SEARCHED, "toy", size=10)] == [1, 2, 4, 6]


@given(
    points=st.lists(st.tuples(st.floats(1, 1000), st.floats(0, 100)), min_size=1, max_size=40),
    size=st.integers(1, 9),
)
def test_a_family_is_ascending_distinct_and_beaten_by_nobody(points, size):
    """Whatever was evaluated: cost and accuracy both rise, and no evaluated network is as cheap and better."""
    cost, score = map(list, zip(*points))
    models = family.family(evaluated(cost, score), "toy", size=size)
    assert all(a.cost < b.cost and a.score < b.score for a, b in pairwise(models))
    assert not any(c <= m.cost and s > m.score for m in models for c, s in points)
    assert 1 <= len(models) <= size


def test_a_family_of_nobody_is_refused():
    """Zero models: the key of params.yaml is named."""
    with pytest.raises(ValueError, match=r"params\.yaml: search\.models: 0"):
        family.family(SEARCHED, "toy", size=0)


def test_hypervolume_by_hand():
    """Largest 10 MFLOPs, chance 10 %: (1 - 0.2) * 0.4 for (2, 50 %) and (1 - 0.6) * 0.2 more for (6, 70 %)."""
    assert family.hypervolume(np.array([2, 6]), np.array([50, 70]), 10, 10) == pytest.approx(0.8 * 0.4 + 0.4 * 0.2)


def test_hypervolume_ends():
    """Free and always right is 1 - chance; the largest network alone, or guessing, is worth nothing."""
    assert family.hypervolume(np.array([0]), np.array([100]), 10, 4) == pytest.approx(0.96)
    assert family.hypervolume(np.array([10, 1]), np.array([90, 4]), 10, 4) == 0


def test_final_figures_by_hand():
    """Costs from 1 to 10 MFLOPs, chance 20 %: 0.9 x 0.2 + 0.4 x 0.3 of the unit square; the cheapest quarter ends at 3.25."""
    found = family.figures([1.0, 6.0, 10.0, 1.2], [40.0, 70.0, 65.0, 30.0], (1.0, 10.0), 20)
    assert found == pytest.approx({"hypervolume": 0.9 * 0.2 + 0.4 * 0.3, "top1_low": 40, "top1_best": 70})


def test_the_low_end_includes_its_edge():
    """A network at just cheapest + a quarter of the range counts, one a hair dearer does not; with none there is no figure."""
    costs, scores = [2.0, 3.0, 3.0 + 1e-9], [30.0, 50.0, 60.0]
    assert family.figures(costs, scores, (2.0, 6.0), 10)["top1_low"] == 50
    assert "top1_low" not in family.figures(costs[2:], scores[2:], (2.0, 6.0), 10)

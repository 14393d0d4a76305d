"""Pareto fronts against their definition, dominated volumes by hand and by counting, rank correlation by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.evaluation.metrics import (
    best_front,
    crowding_distance,
    dominated_area,
    dominated_volume,
    front_ranks,
    hypervolume,
    kendall_tau,
    pareto_front,
    search_metrics,
    worst_front,
)

few = st.integers(0, 6)  # few values, so that ties are common
point_lists = st.lists(st.tuples(few, few), min_size=1, max_size=40).map(lambda points: np.array(points, dtype=float))


def by_definition(points: np.ndarray) -> list[int]:
    """Section 3.1 word for word in O(n^2), once points equal to an earlier one are gone."""
    distinct = [i for i, p in enumerate(points) if not (points[:i] == p).all(axis=1).any()]
    return [i for i in distinct if all(points[j, 1] < points[i, 1] for j in distinct if j != i and points[j, 0] <= points[i, 0])]


@given(point_lists)
def test_best_front_is_the_definition(points):
    """Everything else that costs as much or less has a strictly lower value."""
    front = best_front(points[:, 0], points[:, 1])

    assert sorted(front) == by_definition(points)
    assert (np.diff(points[front, 0]) > 0).all()


@given(point_lists)
def test_worst_front_is_the_definition(points):
    """Everything else that costs as much or more has a strictly higher value."""
    front = worst_front(points[:, 0], points[:, 1])

    assert sorted(front) == by_definition(-points)
    assert (np.diff(points[front, 0]) > 0).all()


def test_hypervolume_by_hand():
    """Two steps under the reference (10, 0): 2 wide and 3 high, then 6 wide and 5 high; a dominated point adds nothing."""
    assert dominated_area([2, 4, 5], [3, 5, 4], reference_cost=10, reference_value=0) == 2 * 3 + 6 * 5


@given(point_lists)
def test_hypervolume_is_the_number_of_dominated_cells(points):
    """With whole numbers the area is the number of unit cells below and right of some point."""
    cells = [(c, v) for c in range(5) for v in range(2, 7)]
    dominated = [any(pc <= c and pv >= v + 1 for pc, pv in points) for c, v in cells]

    assert dominated_area(points[:, 0], points[:, 1], reference_cost=5, reference_value=2) == sum(dominated)


def test_points_beyond_the_reference_add_nothing():
    """Neither a point that costs more than the reference nor one of lower value has any area."""
    assert dominated_area([11.0, 1.0], [5.0, -1.0], reference_cost=10, reference_value=0) == 0


@pytest.mark.parametrize(("cost", "value"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [np.nan])])
def test_no_front_of_nothing(cost, value):
    """No points, different lengths and NaN are errors."""
    with pytest.raises(ValueError):
        best_front(cost, value)


several = st.integers(1, 4).flatmap(lambda m: st.lists(st.tuples(*[few] * m), min_size=1, max_size=30)).map(lambda p: np.array(p, float))


def dominated(points: np.ndarray, i: int) -> bool:
    """Some other point is as good in everything and better in something, or is equal and comes first."""
    return any((p <= points[i]).all() and ((p < points[i]).any() or j < i) for j, p in enumerate(points) if j != i)


@given(several)
def test_a_front_of_any_number_of_objectives_is_the_definition(points):
    """Pair by pair; the first objective ascends."""
    indices = pareto_front(points)
    assert sorted(indices) == [i for i in range(len(points)) if not dominated(points, i)]
    assert (np.diff(points[indices, 0]) >= 0).all()


@given(several, st.integers(1, 30))
def test_ranks_are_fronts_of_the_unranked_points(points, enough):
    """Peeled one by one by the definition; with `enough`, as far as that many points need."""
    ranks, unranked, number = front_ranks(points), list(range(len(points))), 0
    stopped = front_ranks(points, enough)
    while unranked:
        front = [i for k, i in enumerate(unranked) if not dominated(points[unranked], k)]
        assert set(ranks[front]) == {number}
        assert set(stopped[front]) == {min(number, stopped.max())}
        unranked, number = [i for i in unranked if i not in front], number + 1
    assert (stopped == ranks).sum() >= min(enough, len(points))


def test_crowding_by_hand():
    """Ranges 4 and 8: for the middle ones 3/4 + 7/8 and 3/4 + 4/8; the ends are infinitely far from their neighbours."""
    points = np.array([[0, 8], [1, 4], [4, 0], [3, 1]])
    assert crowding_distance(points).tolist() == [np.inf, 3 / 4 + 7 / 8, np.inf, 3 / 4 + 4 / 8]


def test_crowding_of_equals():
    """An objective without any range adds no distance."""
    assert crowding_distance(np.zeros((4, 2))).tolist() == [np.inf, 0, 0, np.inf]


@given(several)
def test_volume_is_the_number_of_dominated_cells(points):
    """With whole numbers it is the number of unit cells below the reference that are above some point."""
    cells = np.stack(np.meshgrid(*[np.arange(5)] * points.shape[1]), axis=-1).reshape(-1, points.shape[1])
    expected = sum((points <= cell).all(axis=1).any() for cell in cells)
    assert dominated_volume(points, np.full(points.shape[1], 5)) == expected


@given(point_lists)
def test_volume_of_two_objectives_is_the_hypervolume(points):
    """Cost as it is, value negated."""
    losses = points * [1, -1]
    assert dominated_volume(losses, np.array([5, -1])) == dominated_area(points[:, 0], points[:, 1], reference_cost=5, reference_value=1)


@pytest.mark.parametrize("points", [np.empty((0, 2)), np.zeros(3), np.array([[0.0, np.nan]])])
def test_no_front_of_anything_else(points):
    """No points, no objectives and NaN are errors."""
    with pytest.raises(ValueError, match="point"):
        pareto_front(points)


def test_a_reference_of_another_length_is_refused():
    """Three numbers for points of two objectives."""
    with pytest.raises(ValueError, match="2 objectives"):
        dominated_volume(np.zeros((1, 2)), np.ones(3))


def test_kendall_tau_by_hand():
    """1 2 3 4 against 1 3 2 4: five pairs agree, one does not, (5 - 1) / 6."""
    assert kendall_tau(np.array([1, 2, 3, 4]), np.array([1, 3, 2, 4])) == pytest.approx(4 / 6)


def test_no_ranking_raises():
    """A constant column is an error; a silent NaN would end up in the metrics."""
    with pytest.raises(ValueError, match="two different values"):
        kendall_tau(np.ones(4), np.arange(4))


def test_normalised_hypervolume_by_hand():
    """Largest 10 MFLOPs, chance 10 %: (1 - 0.2) * 0.4 for (2, 50 %) and (1 - 0.6) * 0.2 more for (6, 70 %)."""
    assert hypervolume(np.array([2, 6]), np.array([50, 70]), 10, 10) == pytest.approx(0.8 * 0.4 + 0.4 * 0.2)


def test_hypervolume_ends():
    """Free and top-1 100 % gives 1 - chance; the largest network alone, or chance level, gives 0."""
    assert hypervolume(np.array([0]), np.array([100]), 10, 4) == pytest.approx(0.96)
    assert hypervolume(np.array([10, 1]), np.array([90, 4]), 10, 4) == 0


def test_search_metrics_by_hand():
    """Costs from 1 to 10 MFLOPs, chance 20 %: 0.9 x 0.2 + 0.4 x 0.3 of the unit square; the cheapest quarter ends at 3.25."""
    values = search_metrics([1.0, 6.0, 10.0, 1.2], [40.0, 70.0, 65.0, 30.0], (1.0, 10.0), 20)
    assert values == pytest.approx({"hypervolume": 0.9 * 0.2 + 0.4 * 0.3, "top1_low": 40, "top1_best": 70})


def test_the_low_end_includes_its_edge():
    """A network at just cheapest + a quarter of the range counts, one slightly more expensive does not; with none the metric is absent."""
    costs, scores = [2.0, 3.0, 3.0 + 1e-9], [30.0, 50.0, 60.0]
    assert search_metrics(costs, scores, (2.0, 6.0), 10)["top1_low"] == 50
    assert "top1_low" not in search_metrics(costs[2:], scores[2:], (2.0, 6.0), 10)

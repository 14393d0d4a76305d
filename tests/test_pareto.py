"""Fronts against their definition, pair by pair, and the dominated area by hand and by counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import best_front, hypervolume, worst_front

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
    assert hypervolume([2, 4, 5], [3, 5, 4], reference_cost=10, reference_value=0) == 2 * 3 + 6 * 5


@given(point_lists)
def test_hypervolume_is_the_number_of_dominated_cells(points):
    """With whole numbers the area is the number of unit cells below and right of some point."""
    cells = [(c, v) for c in range(5) for v in range(2, 7)]
    dominated = [any(pc <= c and pv >= v + 1 for pc, pv in points) for c, v in cells]

    assert hypervolume(points[:, 0], points[:, 1], reference_cost=5, reference_value=2) == sum(dominated)


def test_points_beyond_the_reference_add_nothing():
    """Neither a point that costs more than the reference nor one that is worth less has any area."""
    assert hypervolume([11.0, 1.0], [5.0, -1.0], reference_cost=10, reference_value=0) == 0


@pytest.mark.parametrize(("cost", "value"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [np.nan])])
def test_no_front_of_nothing(cost, value):
    """No points, lengths that differ and not-a-number are errors."""
    with pytest.raises(ValueError):
        best_front(cost, value)

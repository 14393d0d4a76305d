"""nas.differentiable.hardcore_nas.knapsack: the linear programme of Frank-Wolfe and of the projection."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

from nas.cost.infeasible import InfeasibleTarget
from nas.differentiable.hardcore_nas import knapsack

INSTANCES = 1000


def highs(value: np.ndarray, cost: np.ndarray, limit: float) -> float | None:
    """The least value by scipy's HiGHS; None where there is no solution."""
    blocks, choices = value.shape
    each_block = np.kron(np.eye(blocks), np.ones(choices))
    result = linprog(value.ravel(), cost.ravel()[None], [limit], each_block, np.ones(blocks), (0, None), method="highs-ds")
    return result.fun if result.status == 0 else None


def instance(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Small integers with many ties, or real numbers of any sign; limits on both sides of the cheapest sum."""
    shape = rng.integers(1, 9), rng.integers(1, 13)
    if rng.random() < 0.5:
        value, cost = rng.integers(-3, 4, shape).astype(float), rng.integers(0, 5, shape).astype(float)
    else:
        value, cost = rng.normal(size=shape), rng.uniform(0.05, 3, shape)
    low, high = cost.min(1).sum(), cost.max(1).sum()
    return value, cost, float(rng.choice([low, high, rng.uniform(low - 1, high + 1)]))


def test_the_objective_is_that_of_a_general_solver(rng):
    """A thousand instances, with ties and infeasible ones, against scipy's HiGHS: to 1e-9 relative."""
    infeasible, fractional = 0, 0
    for _ in range(INSTANCES):
        value, cost, limit = instance(rng)
        expected = highs(value, cost, limit)
        if expected is None:
            infeasible += 1
            with pytest.raises(InfeasibleTarget):
                knapsack.solve(value, cost, limit)
            continue
        x = knapsack.solve(value, cost, limit)
        fractional += (x > 0).sum() > len(x)
        assert (value * x).sum() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert infeasible > 20
    assert fractional > 100


VALUES = st.floats(-10, 10)


@given(arrays(float, (5, 6), elements=VALUES), arrays(float, (5, 6), elements=st.floats(0, 10)), st.floats(0, 1))
def test_solutions_are_vertices_within_the_limit(value, cost, share):
    """Rows are distributions; at most one has two non-zero entries, none has more (Theorem 3.1)."""
    low, high = cost.min(1).sum(), cost.max(1).sum()
    limit = low + share * (high - low)
    x = knapsack.solve(value, cost, limit)
    assert (x >= 0).all()
    assert x.sum(1) == pytest.approx(np.ones(5), abs=1e-12)
    assert sorted((x > 0).sum(1))[:-1] == [1] * 4
    assert (x > 0).sum(1).max() <= 2
    assert (cost * x).sum() <= limit + 1e-9 * (1 + abs(limit))


def test_a_solution_by_hand():
    """Two blocks, limit 4: the step 0 -> 1 of the first (slope -3) fits, of the second (slope -1) half of it."""
    value, cost = np.array([[0.0, -3.0], [0.0, -2.0]]), np.array([[1.0, 2.0], [1.0, 3.0]])
    assert knapsack.solve(value, cost, 4.0).tolist() == [[0, 1], [0.5, 0.5]]


def test_a_choice_of_infinite_cost_is_not_taken():
    """An infinite cost marks a choice that is not offered, whatever its value."""
    x = knapsack.solve(np.array([[0.0, -1.0, -9.0], [0.0, -1.0, -2.0]]), np.array([[1.0, 2.0, np.inf], [1.0, 2.0, 3.0]]), 10.0)
    assert x.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_an_infeasible_limit_states_the_range():
    """The cheapest sum is 1 + 2, the most expensive 4 + 5; infinite costs do not count."""
    with pytest.raises(InfeasibleTarget, match=r"at most 2\.5; the achievable range is 3 to 9") as error:
        knapsack.solve(np.zeros((2, 3)), np.array([[1.0, 4.0, np.inf], [5.0, 2.0, np.inf]]), 2.5)
    assert (error.value.target, error.value.low, error.value.high) == ("at most 2.5", 3, 9)


@pytest.mark.parametrize(
    ("value", "cost", "limit", "message"),
    [
        ([[0.0, np.nan]], [[1.0, 1.0]], 1.0, "values and limit have to be finite"),
        ([[0.0, 1.0]], [[1.0, 1.0]], np.nan, "values and limit have to be finite"),
        ([[0.0, 1.0]], [[1.0, np.nan]], 1.0, "1 costs are NaN or minus infinity"),
        ([[0.0, 1.0]] * 2, [[1.0, 1.0], [np.inf, np.inf]], 1.0, r"no choice is offered in the blocks \[1\]"),
    ],
)
def test_invalid_programmes_are_refused(value, cost, limit, message):
    """A non-finite gradient would otherwise end in an arbitrary network."""
    with pytest.raises(ValueError, match=message):
        knapsack.solve(np.array(value), np.array(cost), limit)


def test_a_limit_equal_to_the_cheapest_sum_is_feasible():
    """Added in another order, the cheapest sum may exceed the limit by rounding."""
    cost = np.full((10, 2), 0.1)
    cost[:, 1] = 1
    assert knapsack.solve(-cost, cost, 0.1 * 10 * (1 - 1e-15)).argmax(1).tolist() == [0] * 10

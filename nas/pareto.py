"""Pareto fronts of cost and value, and the area a set dominates.

AttentiveNAS (arXiv:2011.09011), section 3.1, for cost (lower is better) and value (higher is
better, e.g. accuracy or minus the loss).
"""

import numpy as np


def best_front(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices (f,) of the best Pareto set, cost ascending: everything else that costs as much or less has a lower value.

    Of several with the same cost and value the first stands for all; without that, equals would
    exclude each other. An equal value at a higher cost is not in the set. O(n log n).

    Args:
        cost: (n,).
        value: (n,).

    Raises:
        ValueError: for no points, lengths that differ, or a NaN.
    """
    cost, value = _points(cost, value)
    order = np.lexsort((np.arange(len(cost)), -value, cost))
    sorted_value = value[order]
    before = np.maximum.accumulate(np.append(-np.inf, sorted_value[:-1]))
    front = sorted_value > before
    front[0] = True
    return order[front]


def worst_front(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices (f,) of the worst Pareto set, cost ascending: everything else that costs as much or more has a higher value.

    Ties, arguments and errors as in `best_front`.
    """
    cost, value = _points(cost, value)
    return best_front(-cost, -value)[::-1]


def hypervolume(cost: np.ndarray, value: np.ndarray, reference_cost: float, reference_value: float) -> float:
    """Area of {(c, v): some point costs <= c <= reference_cost and reference_value <= v <= its value}.

    Points that cost more than the reference or are worth less add nothing; 0.0 if none adds anything.

    Raises:
        ValueError: as `best_front`.
    """
    front = best_front(cost, value)
    cost, value = np.asarray(cost, float)[front], np.asarray(value, float)[front]
    width = np.clip(np.append(cost[1:], np.inf), None, reference_cost) - np.clip(cost, None, reference_cost)
    return float(width @ np.clip(value - reference_value, 0, None))


def _points(cost: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cost, value = np.asarray(cost, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != value.shape or not len(cost):
        raise ValueError(f"costs {cost.shape} and values {value.shape}: one of each for at least one point is needed")
    if np.isnan(cost).any() or np.isnan(value).any():
        raise ValueError(f"not a number among the {'costs' if np.isnan(cost).any() else 'values'} of {len(cost)} points")
    return cost, value

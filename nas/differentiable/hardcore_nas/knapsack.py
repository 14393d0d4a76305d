"""Exact solution of the linear programme of Frank-Wolfe and of the projection: a relaxed multiple-choice knapsack.

    min  sum_ij value_ij x_ij   subject to   sum_ij cost_ij x_ij <= limit,   sum_j x_ij = 1,   x_ij >= 0

HardCoRe-NAS (arXiv:2102.11646), Definition F.1. No general solver is needed (Kellerer, Pferschy and Pisinger, Knapsack
Problems, 2004, section 11.2): only the lower convex hull of (cost, value) of every block matters. From the cheapest choice
everywhere, the steps along the hulls are taken from the steepest to the flattest until the limit is reached, the last one
fractionally. So at most one block has two non-zero entries (Theorem 3.1): the solution is a vertex. O(n log n).

The code uses plain floats: for a few hundred numbers, NumPy calls cost more than the arithmetic.
"""

import numpy as np

from nas.cost.infeasible import InfeasibleTarget

ROUNDING = 1e-12  # relative: a limit equal to the cheapest sum, added in another order, is feasible


def solve(value: np.ndarray, cost: np.ndarray, limit: float) -> np.ndarray:
    """The vertex x of least value under the limit, (blocks, choices): rows sum to 1, at most one has two non-zero entries.

    Args:
        value: (blocks, choices), finite; negate it to maximise.
        cost: (blocks, choices); infinite where a choice is not offered. Every block offers at least one.
        limit: of the sum of costs.

    Raises:
        InfeasibleTarget: if the cheapest choices together cost more than the limit.
        ValueError: if a value or the limit is not finite, a cost is NaN or minus infinity, or a block offers nothing.
    """
    _check(value, cost, limit)
    costs = cost.tolist()
    hulls = [_hull(*block) for block in zip(value.tolist(), costs)]
    selected = [hull[0][0] for hull in hulls]
    spent = sum(block[j] for block, j in zip(costs, selected))
    if spent > limit + ROUNDING * abs(limit):
        raise InfeasibleTarget(f"at most {limit:g}", spent, float(np.where(np.isinf(cost), -np.inf, cost).max(1).sum()))
    x = np.zeros(value.shape)
    for _, block, after in sorted((slope, block, j) for block, hull in enumerate(hulls) for j, slope in hull[1:]):
        extra = costs[block][after] - costs[block][selected[block]]
        if spent + extra > limit:
            x[block, after] = max(0.0, (limit - spent) / extra)
            break
        spent += extra
        selected[block] = after
    x[range(len(selected)), selected] = 1.0 - x.sum(1)
    return x


def _check(value: np.ndarray, cost: np.ndarray, limit: float) -> None:
    if not (np.isfinite(value).all() and np.isfinite(limit)):
        raise ValueError(f"values and limit have to be finite; the limit is {limit}, the values go from {value.min()} to {value.max()}")
    if not (cost > -np.inf).all():
        raise ValueError(f"{(~(cost > -np.inf)).sum()} costs are NaN or minus infinity")
    if not np.isfinite(cost).any(1).all():
        raise ValueError(f"no choice is offered in the blocks {np.flatnonzero(~np.isfinite(cost).any(1)).tolist()}")


def _hull(values: list[float], costs: list[float]) -> list[tuple[int, float]]:
    """Choices on the falling part of the lower convex hull, by rising cost, each with the slope of the step to it.

    The slopes are negative and strictly rise, so sorting the steps of all blocks by slope keeps the order within a block.
    """
    hull: list[tuple[int, float]] = []
    for cost, value, j in sorted(zip(costs, values, range(len(costs)))):
        if cost == float("inf"):
            break
        if hull and value >= values[hull[-1][0]]:  # costs at least as much and is no better
            continue
        slope = -float("inf")
        while hull:
            last, slope_to_last = hull[-1]
            slope = (value - values[last]) / (cost - costs[last])
            if len(hull) == 1 or slope > slope_to_last:
                break
            hull.pop()
        hull.append((j, slope))
    return hull

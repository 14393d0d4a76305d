"""Metrics of a search: rank correlation, Pareto fronts and hypervolume for any number of objectives.

AttentiveNAS (arXiv:2011.09011), section 3.1, for cost (lower is better) and value (higher is better, e.g. accuracy or
minus the loss). With more objectives all of `points` are losses: lower is better.
Ranks and crowding distance are those of NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 6(2), 2002).
"""

import numpy as np
from scipy import stats


def kendall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's rank correlation tau-b of two columns, (n,) each, in [-1, 1].

    Raises:
        ValueError: if there is no ranking: fewer than two values, or all of a column equal.
    """
    tau = float(stats.kendalltau(a, b).statistic)
    if np.isnan(tau):
        raise ValueError(f"no rank correlation of {len(a)} and {len(b)} values: each column needs at least two different values")
    return tau


def best_front(cost: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices (f,) of the best Pareto set, cost ascending: everything else that costs as much or less has a lower value.

    Of points with the same cost and value the first represents all; otherwise equal points would
    exclude each other. A point of equal value at a higher cost is not in the set. O(n log n).

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


def hypervolume(cost: np.ndarray, top1: np.ndarray, largest_cost: float, chance: float) -> float:
    """Hypervolume of a Pareto front of cost and top-1, in [0, 1]; larger is better.

    The axes are cost / largest_cost and top1 / 100, the reference point is (1, chance / 100). A free architecture
    with top-1 100 % would reach 1 - chance / 100.

    Args:
        cost: (n,), MFLOPs.
        top1: (n,), percent.
        largest_cost: of the space's largest architecture, MFLOPs.
        chance: chance level of top-1, percent, 100 / classes.
    """
    return dominated_area(np.asarray(cost) / largest_cost, np.asarray(top1) / 100, 1.0, chance / 100)


def search_metrics(cost: np.ndarray, top1: np.ndarray, ends: tuple[float, float], chance: float) -> dict[str, float]:
    """Metrics by which searches are compared.

    Args:
        cost: (n,), MFLOPs.
        top1: (n,), percent.
        ends: cost of the space's cheapest and most expensive architecture.
        chance: chance level of top-1, percent.

    Returns:
        hypervolume; top1_best, percent; top1_low, the best at or below cheapest + (most expensive - cheapest) / 4, percent,
        absent if nothing as cheap was evaluated.
    """
    cost, top1, (cheapest, most_expensive) = np.asarray(cost), np.asarray(top1), ends
    low = top1[cost <= cheapest + (most_expensive - cheapest) / 4]
    values = {"hypervolume": hypervolume(cost, top1, most_expensive, chance), "top1_best": float(top1.max())}
    return values | ({"top1_low": float(low.max())} if len(low) else {})


def dominated_area(cost: np.ndarray, value: np.ndarray, reference_cost: float, reference_value: float) -> float:
    """Area of {(c, v): some point costs <= c <= reference_cost and reference_value <= v <= its value}.

    Points that cost more than the reference or have a lower value add nothing; 0.0 if none adds anything.

    Raises:
        ValueError: as `best_front`.
    """
    front = best_front(cost, value)
    cost, value = np.asarray(cost, float)[front], np.asarray(value, float)[front]
    width = np.clip(np.append(cost[1:], np.inf), None, reference_cost) - np.clip(cost, None, reference_cost)
    return float(width @ np.clip(value - reference_value, 0, None))


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Indices (f,) of the non-dominated points, the first objective ascending.

    Of equal points the first represents all. Two objectives take O(n log n), more O(f n).

    Args:
        points: (n, m) losses, lower is better; n >= 1, m >= 1.

    Raises:
        ValueError: for another shape, or a NaN.
    """
    points = _losses(points)
    if points.shape[1] == 2:
        return best_front(points[:, 0], -points[:, 1])
    order = np.lexsort(points.T[::-1])  # no point is dominated by a later one
    front = []
    while len(order):
        front.append(order[0])
        order = order[(points[order] < points[order[0]]).any(axis=1)]
    return np.array(front)


def front_ranks(points: np.ndarray, enough: int | None = None) -> np.ndarray:
    """(n, m) losses -> (n,) non-dominated rank of each point: 0 for the Pareto front, 1 for the front of the rest, and so on.

    Equal points are in different fronts, the first in the best one. With `enough`, sorting stops once the fronts hold
    that many points; all further points share the next rank.

    Raises:
        ValueError: as `pareto_front`.
    """
    points = _losses(points)
    rank = np.full(len(points), -1)
    unranked, number = np.arange(len(points)), 0
    while len(unranked) and (enough is None or len(points) - len(unranked) < enough):
        at = pareto_front(points[unranked])
        rank[unranked[at]] = number
        unranked, number = np.delete(unranked, at), number + 1
    rank[unranked] = number
    return rank


def crowding_distance(points: np.ndarray) -> np.ndarray:
    """(n, m) losses of one front -> (n,) crowding distance; infinite at the ends.

    The sum over objectives of the distance between the next lower and the next higher point, as a share of the range.
    """
    points = _losses(points)
    distance = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        value = column[order]
        span = value[-1] - value[0]
        gap = np.full(len(points), np.inf)
        gap[1:-1] = (value[2:] - value[:-2]) / span if span > 0 else 0.0
        distance[order] += gap
    return distance


def dominated_volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume of {x: some point <= x <= reference in every objective}; in two dimensions `dominated_area`.

    By slices along the last objective, O(f^(m - 1) log f) for a front of f points. Points beyond the reference add nothing.

    Args:
        points: (n, m) losses, lower is better.
        reference: (m,).

    Raises:
        ValueError: as `pareto_front`, or for a reference of another length.
    """
    points, reference = _losses(points), np.asarray(reference, dtype=np.float64)
    if reference.shape != points.shape[1:]:
        raise ValueError(f"a reference of shape {reference.shape} for points of {points.shape[1]} objectives")
    points = points[(points < reference).all(axis=1)]
    return _volume(points, reference) if len(points) else 0.0


def _volume(points: np.ndarray, reference: np.ndarray) -> float:
    if len(reference) == 1:
        return float(reference[0] - points.min())
    if len(reference) == 2:
        return dominated_area(points[:, 0], -points[:, 1], reference[0], -reference[1])
    points = points[pareto_front(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(points[:, -1], append=reference[-1])
    return sum(_volume(points[: i + 1, :-1], reference[:-1]) * t for i, t in enumerate(thickness) if t > 0)


def _losses(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or not points.size:
        raise ValueError(f"points of shape {points.shape}: (n, objectives) with at least one of each are needed")
    if np.isnan(points).any():
        raise ValueError(f"NaN among {len(points)} points")
    return points


def _points(cost: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cost, value = np.asarray(cost, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != value.shape or not len(cost):
        raise ValueError(f"costs {cost.shape} and values {value.shape}: one of each for at least one point is needed")
    if np.isnan(cost).any() or np.isnan(value).any():
        raise ValueError(f"NaN among the {'costs' if np.isnan(cost).any() else 'values'} of {len(cost)} points")
    return cost, value

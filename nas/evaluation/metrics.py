"""Pareto fronts of cost and value, and the area a set dominates; the same for any number of objectives.

AttentiveNAS (arXiv:2011.09011), section 3.1, for cost (lower is better) and value (higher is
better, e.g. accuracy or minus the loss). With more objectives, all of `points` are losses: lower is better.
Ranks and crowding are those of NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 6(2), 2002).
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


def front(points: np.ndarray) -> np.ndarray:
    """Indices (f,) of the points that no other is as good as in every objective, the first objective ascending.

    Of equal points the first stands for all. Two objectives take O(n log n), more O(f n).

    Args:
        points: (n, m) losses, lower is better; n >= 1, m >= 1.

    Raises:
        ValueError: for another shape, or a NaN.
    """
    points = _losses(points)
    if points.shape[1] == 2:
        return best_front(points[:, 0], -points[:, 1])
    order = np.lexsort(points.T[::-1])  # nothing is dominated by what comes later
    kept = []
    while len(order):
        kept.append(order[0])
        order = order[(points[order] < points[order[0]]).any(axis=1)]
    return np.array(kept)


def ranks(points: np.ndarray, enough: int | None = None) -> np.ndarray:
    """(n, m) losses -> (n,) number of each point's front: 0 for the front, 1 for that of the rest, and so on.

    Equal points are in fronts of their own, the first in the best one. With `enough`, points beyond the fronts
    that hold that many are not told apart: they share the number after the last of these.

    Raises:
        ValueError: as `front`.
    """
    points = _losses(points)
    rank = np.full(len(points), -1)
    left, number = np.arange(len(points)), 0
    while len(left) and (enough is None or len(points) - len(left) < enough):
        at = front(points[left])
        rank[left[at]] = number
        left, number = np.delete(left, at), number + 1
    rank[left] = number
    return rank


def crowding(points: np.ndarray) -> np.ndarray:
    """(n, m) losses of one front -> (n,) how far apart each point's neighbours are; infinite at the ends.

    The sum over objectives of the distance between the next lower and the next higher point, as a share of the range.
    """
    points = _losses(points)
    out = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        value = column[order]
        span = value[-1] - value[0]
        gap = np.full(len(points), np.inf)
        gap[1:-1] = (value[2:] - value[:-2]) / span if span > 0 else 0.0
        out[order] += gap
    return out


def volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume of {x: some point <= x <= reference in every objective}; in two dimensions the area of `hypervolume`.

    By slices along the last objective, O(f^(m - 1) log f) for a front of f points. Points beyond the reference add nothing.

    Args:
        points: (n, m) losses, lower is better.
        reference: (m,).

    Raises:
        ValueError: as `front`, or for a reference of another length.
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
        return hypervolume(points[:, 0], -points[:, 1], reference[0], -reference[1])
    points = points[front(points)]
    points = points[np.argsort(points[:, -1], kind="stable")]
    thickness = np.diff(points[:, -1], append=reference[-1])
    return sum(_volume(points[: i + 1, :-1], reference[:-1]) * t for i, t in enumerate(thickness) if t > 0)


def _losses(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or not points.size:
        raise ValueError(f"points of shape {points.shape}: (n, objectives) with at least one of each are needed")
    if np.isnan(points).any():
        raise ValueError(f"not a number among {len(points)} points")
    return points


def _points(cost: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cost, value = np.asarray(cost, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != value.shape or not len(cost):
        raise ValueError(f"costs {cost.shape} and values {value.shape}: one of each for at least one point is needed")
    if np.isnan(cost).any() or np.isnan(value).any():
        raise ValueError(f"not a number among the {'costs' if np.isnan(cost).any() else 'values'} of {len(cost)} points")
    return cost, value

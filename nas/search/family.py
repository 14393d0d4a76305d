"""From evaluated architectures to a family: the most accurate for its cost, spread over the costs.

AttentiveNAS (arXiv:2011.09011), section 4.5 and Table 1: A0 to A6 are such a family.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from nas.evaluation import metrics
from nas.search.archive import Evaluated
from nas.search.problem import Problem
from nas.spaces.mbconv import Arch


@dataclass(frozen=True)
class Model:
    """An architecture that nothing found beats at its cost."""

    name: str  # e.g. "glyphs-a0", the cheapest
    arch: Arch
    cost: float  # the first one, in its unit, e.g. MFLOPs
    score: float  # e.g. top-1 in percent on the images it was chosen on: optimistic


def family(evaluated: Evaluated, prefix: str, size: int) -> list[Model]:
    """Models of the front of cost and score, both ascending: `size` of them, or all if the front is smaller.

    From the front's cheapest to its most expensive, evenly spread in the logarithm of cost: accuracy rises by about the same
    amount for each doubling, so each step up is worth taking.

    Args:
        evaluated: what was searched.
        prefix: of the names.
        size: number of models.

    Raises:
        ValueError: if size is below 1.
    """
    if size < 1:
        raise ValueError(f"params.yaml: search.models: {size}: a family has at least one model")
    front = evaluated[metrics.best_front(evaluated.cost, evaluated.score)]  # cost ascending
    return _models(front[_spread(front.cost, size)], prefix)


def family_within(problem: Problem, evaluated: Evaluated, prefix: str, targets: Sequence[Mapping[str, float]]) -> list[Model]:
    """For each target the model of the front with the highest score that stays within it, the first cost ascending.

    Targets that the same model serves best share it; of equals the cheapest in the first cost is taken.

    Args:
        problem: objectives and bounds.
        evaluated: what was searched.
        prefix: of the names.
        targets: each the greatest cost allowed, by the objective's or constraint's name, e.g. {"mflops": 300, "latency_ms": 8}.

    Raises:
        ValueError: if there are no targets, a name is not known, or nothing on the front stays within a target.
    """
    if not len(targets):
        raise ValueError("params.yaml: search.targets: empty; list the greatest costs allowed for each model")
    front = evaluated[problem.front(evaluated)]
    costs = {o.name: o.of(front.rows) for o in (*problem.costs, *problem.constraints)}
    places = []
    for target in targets:
        if unknown := sorted(set(target) - set(costs)):
            raise ValueError(f"params.yaml: search.targets: {dict(target)}: {unknown[0]!r} is not one of {sorted(costs)}")
        fits = np.all([costs[name] <= limit for name, limit in target.items()], axis=0) & np.ones(len(front), dtype=bool)
        if not fits.any():
            least = {name: float(costs[name].min()) for name in target}
            raise ValueError(f"params.yaml: search.targets: nothing found keeps {dict(target)}; the least of each found is {least}")
        places.append(int(np.argmax(np.where(fits, front.score, -np.inf))))
    return _models(front[np.unique(places)], prefix)


def _models(chosen: Evaluated, prefix: str) -> list[Model]:
    numbers = zip(chosen.archs, chosen.cost.tolist(), chosen.score.tolist())
    return [Model(f"{prefix}-a{i}", arch, cost, score) for i, (arch, cost, score) in enumerate(numbers)]


def _spread(costs: np.ndarray, size: int) -> np.ndarray:
    """Places of `size` distinct costs, as near as can be to evenly spaced ones in log scale."""
    wanted = np.geomspace(costs[0], costs[-1], min(size, len(costs)))
    distance = np.log(costs[None, :] / wanted[:, None]) ** 2
    return np.sort(linear_sum_assignment(distance)[1])


def hypervolume(cost: np.ndarray, top1: np.ndarray, largest_cost: float, chance: float) -> float:
    """Area that the front dominates, in [0, 1]; larger is better.

    The axes are cost / largest_cost and top1 / 100, the reference point is (1, chance / 100). A network that
    is free and always right would reach 1 - chance / 100.

    Args:
        cost: (n,), MFLOPs.
        top1: (n,), percent.
        largest_cost: of the space's largest network, MFLOPs.
        chance: top-1 of guessing, percent, 100 / classes.
    """
    return metrics.hypervolume(np.asarray(cost) / largest_cost, np.asarray(top1) / 100, 1.0, chance / 100)


def figures(cost: np.ndarray, top1: np.ndarray, ends: tuple[float, float], chance: float) -> dict[str, float]:
    """What searches are compared by, under the same names everywhere.

    Args:
        cost: (n,), MFLOPs.
        top1: (n,), percent.
        ends: cost of the space's cheapest and most expensive architecture.
        chance: top-1 of guessing, percent.

    Returns:
        hypervolume; top1_best, and top1_low, the best at or below cheapest + (most expensive - cheapest) / 4, percent; no top1_low
        where nothing so cheap was evaluated.
    """
    cost, top1, (cheapest, most_expensive) = np.asarray(cost), np.asarray(top1), ends
    low = top1[cost <= cheapest + (most_expensive - cheapest) / 4]
    found = {"hypervolume": hypervolume(cost, top1, most_expensive, chance), "top1_best": float(top1.max())}
    return found | ({"top1_low": float(low.max())} if len(low) else {})

"""From an archive to a Pareto family: the most accurate architecture for each cost.

AttentiveNAS (arXiv:2011.09011), section 4.5 and Table 1: A0 to A6 are such a family.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from nas.evaluation import metrics
from nas.search.archive import Archive
from nas.search.problem import Problem
from nas.spaces.mbconv import Arch


@dataclass(frozen=True)
class Model:
    """A model of the family: no evaluated architecture is as cheap and more accurate."""

    name: str  # e.g. "glyphs-a0", the cheapest
    arch: Arch
    cost: float  # the first cost, in its unit, e.g. MFLOPs
    score: float  # e.g. top-1 in percent on the images that the search evaluated on: optimistic


def pareto_family(archive: Archive, prefix: str, size: int) -> list[Model]:
    """`size` models of the Pareto front of cost and score, both ascending; all of the front if it is smaller.

    The models span the front evenly in the logarithm of cost: accuracy rises by about the same amount for each doubling.

    Args:
        archive: evaluated architectures.
        prefix: of the names.
        size: number of models.

    Raises:
        ValueError: if size is below 1.
    """
    if size < 1:
        raise ValueError(f"params.yaml: search.models: {size}: a family has at least one model")
    front = archive[metrics.best_front(archive.cost, archive.score)]  # cost ascending
    return _models(front[_evenly_spaced(front.cost, size)], prefix)


def family_for_targets(problem: Problem, archive: Archive, prefix: str, targets: Sequence[Mapping[str, float]]) -> list[Model]:
    """For each target the most accurate model of the front within it, the first cost ascending.

    Targets with the same best model share it; ties go to the cheapest in the first cost.

    Args:
        problem: objectives and bounds.
        archive: evaluated architectures.
        prefix: of the names.
        targets: each the maximum costs by name of objective or constraint, e.g. {"mflops": 300, "latency_ms": 8}.

    Raises:
        ValueError: if there are no targets, a name is unknown, or no model of the front keeps a target.
    """
    if not len(targets):
        raise ValueError("params.yaml: search.targets: empty; list the maximum costs of each model")
    front = archive[problem.front(archive)]
    costs = {o.name: o.of(front.rows) for o in (*problem.costs, *problem.constraints)}
    chosen = []
    for target in targets:
        if unknown := sorted(set(target) - set(costs)):
            raise ValueError(f"params.yaml: search.targets: {dict(target)}: {unknown[0]!r} is not one of {sorted(costs)}")
        fits = np.all([costs[name] <= limit for name, limit in target.items()], axis=0) & np.ones(len(front), dtype=bool)
        if not fits.any():
            lowest = {name: float(costs[name].min()) for name in target}
            raise ValueError(f"params.yaml: search.targets: no model of the front keeps {dict(target)}; its lowest costs are {lowest}")
        chosen.append(int(np.argmax(np.where(fits, front.score, -np.inf))))
    return _models(front[np.unique(chosen)], prefix)


def _models(chosen: Archive, prefix: str) -> list[Model]:
    entries = zip(chosen.archs, chosen.cost.tolist(), chosen.score.tolist())
    return [Model(f"{prefix}-a{i}", arch, cost, score) for i, (arch, cost, score) in enumerate(entries)]


def _evenly_spaced(costs: np.ndarray, size: int) -> np.ndarray:
    """Indices of `size` distinct costs, as close as possible to evenly spaced ones in log scale."""
    wanted = np.geomspace(costs[0], costs[-1], min(size, len(costs)))
    distance = np.log(costs[None, :] / wanted[:, None]) ** 2
    return np.sort(linear_sum_assignment(distance)[1])

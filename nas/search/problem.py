"""A search problem: objectives with bounds over a space; the Pareto front and the hypervolume of an archive.

An objective is the score (e.g. top-1, measured or predicted) or a cost that depends on the architecture alone (MFLOPs,
parameters, latency from a table). A bound on a cost keeps architectures from being evaluated. A bound on the score can
only be checked after the evaluation: what violates it is in no front and is selected last as a parent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nas.cost.table import CostTable
from nas.evaluation import metrics
from nas.search.archive import Archive
from nas.spaces import encoding
from nas.spaces.mbconv import Gene

CostOfRows = Callable[[np.ndarray], np.ndarray]  # rows (n, genes) -> (n,)


class Space(Protocol):
    """What a search needs of a space; `nas.spaces.mbconv.SearchSpace` is one."""

    @property
    def genes(self) -> Sequence[Gene]:
        """The columns of a row, each with its choices."""

    def smallest(self) -> Any:
        """The smallest architecture."""

    def largest(self) -> Any:
        """The largest architecture."""


@dataclass(frozen=True, eq=False)
class Objective:
    """A number to minimise or maximise, with bounds (both included)."""

    name: str  # of its column, with the unit: "mflops", "parameters", "latency_ms", "top1"
    of: CostOfRows | None  # None: the search's score
    larger_is_better: bool = False
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"params.yaml: search.bounds.{self.name}: min {self.low:g} is above max {self.high:g}")

    def within(self, values: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) bool: which values keep the bounds."""
        return (values >= self.low) & (values <= self.high)

    def violation(self, values: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) distance to the bounds, in the objective's unit; 0 within."""
        return np.maximum(np.maximum(self.low - values, values - self.high), 0.0)

    def loss(self, values: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) lower is better."""
        return -values if self.larger_is_better else values


def score_objective(name: str = "top1", low: float = -np.inf, high: float = np.inf) -> Objective:
    """The evaluated score; larger is better."""
    return Objective(name, None, True, low, high)


def cost_objective(name: str, table: CostTable, low: float | None = None, high: float | None = None) -> Objective:
    """A cost from a table (FLOPs, parameters, latency); smaller is better.

    Args:
        name: of its column, e.g. "mflops".
        table: the costs.
        low: lower bound in the table's unit; None for no bound.
        high: upper bound.

    Raises:
        InfeasibleTarget: if no architecture costs between the bounds; states the achievable range.
    """
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    table.check_between(low, high, f"change params.yaml: search.bounds.{name}")
    return Objective(name, table.costs, False, low, high)


@dataclass(frozen=True, eq=False)
class Problem:
    """A space and its objectives, one of them the score; results are ordered by the first cost.

    Raises:
        ValueError: if names repeat, or the objectives are not one score, where more is better, and at least one cost.
    """

    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Objective, ...] = ()  # bounds on costs that are not objectives
    encode: Callable[[list[Any]], np.ndarray] = encoding.to_genes  # n architectures of the space -> (n, genes)
    decode: Callable[[np.ndarray], list[Any]] = encoding.from_genes  # (n, genes) -> n architectures

    def __post_init__(self) -> None:
        names = [o.name for o in (*self.objectives, *self.constraints)]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives {names}: each needs a name of its own")
        if sum(o.of is None for o in self.objectives) != 1 or any(o.of is None for o in self.constraints) or not self.costs:
            raise ValueError(f"objectives {[o.name for o in self.objectives]}: one score and at least one cost are needed")
        if not self.score.larger_is_better:
            raise ValueError(f"of the score {self.score.name!r} less is better; negate it")

    @cached_property
    def costs(self) -> tuple[Objective, ...]:
        """The objectives that need no evaluation."""
        return tuple(o for o in self.objectives if o.of is not None)

    @cached_property
    def score(self) -> Objective:
        """The objective that is evaluated."""
        return next(o for o in self.objectives if o.of is None)

    def cost(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n,) the first cost, the column `cost` of `Archive`."""
        return np.asarray(self.costs[0].of(rows), dtype=np.float64)

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n,) bool: which rows keep all bounds on costs."""
        ok = np.ones(len(rows), dtype=bool)
        for objective in (*self.costs, *self.constraints):
            if np.isfinite(objective.low) or np.isfinite(objective.high):
                ok &= objective.within(objective.of(rows))
        return ok

    def losses(self, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(n, genes) and (n,) -> (n, objectives), lower is better."""
        return np.stack([o.loss(np.asarray(scores if o.of is None else o.of(rows), dtype=np.float64)) for o in self.objectives], axis=1)

    def front(self, archive: Archive) -> np.ndarray:
        """Indices (f,) of the Pareto front within the bounds, the first cost ascending.

        Raises:
            ValueError: if no architecture keeps the bounds; states the range of scores.
        """
        scores, within = archive.score, self._within(archive)
        if not len(within):
            raise ValueError(
                f"none of {len(archive)} evaluated architectures keeps the bounds; {self.score.name} was {scores.min():g} to "
                f"{scores.max():g}, the bounds are {self.score.low:g} to {self.score.high:g}; widen search.bounds in params.yaml"
            )
        front = within[metrics.pareto_front(self.losses(archive.rows[within], scores[within]))]
        return front[np.argsort(archive.cost[front], kind="stable")]

    def hypervolume(self, archive: Archive, reference: Sequence[float], scale: Sequence[float]) -> float:
        """Volume that the front dominates up to the reference, each objective divided by its scale; larger is better.

        With MFLOPs and top-1, reference (largest, chance) and scale (largest, 100) it is `nas.evaluation.metrics.hypervolume`.

        Args:
            archive: evaluated architectures; those that violate bounds add nothing.
            reference: (objectives,) the worst values of interest, in the objectives' units and order.
            scale: (objectives,) in the objectives' units.
        """
        within = self._within(archive)
        if not len(within):
            return 0.0
        scale, signs = np.asarray(scale, dtype=np.float64), np.where([o.larger_is_better for o in self.objectives], -1.0, 1.0)
        losses = self.losses(archive.rows[within], archive.score[within])
        return metrics.dominated_volume(losses / scale, signs * np.asarray(reference, dtype=np.float64) / scale)

    def to_frame(self, archive: Archive) -> pd.DataFrame:
        """One column per gene, one per objective and constraint, `round`, and `front`: whether the row is in the Pareto front."""
        genes = pd.DataFrame(archive.rows, columns=[g.name for g in self.space.genes])
        values = {o.name: archive.score if o.of is None else o.of(archive.rows) for o in (*self.objectives, *self.constraints)}
        front = np.isin(np.arange(len(archive)), self.front(archive))
        return genes.assign(**values, round=archive.round, front=front)

    def _within(self, archive: Archive) -> np.ndarray:
        """Indices of the architectures that keep all bounds."""
        return np.flatnonzero(self.allowed(archive.rows) & self.score.within(archive.score))

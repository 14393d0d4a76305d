"""What a search looks for: objectives with their bounds, the front and the volume that evaluated architectures reach.

An objective is the score (e.g. top-1, or what a predictor makes of it) or a function of architectures alone
(MFLOPs, parameters, latency from a table). A bound on the latter keeps architectures from being evaluated; one
on the score can be checked only afterwards: what breaks it is in no front and the last to have offspring.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from nas.cost.table import CostTable
from nas.evaluation import metrics
from nas.search.archive import Evaluated
from nas.spaces.mbconv import SearchSpace

OfRows = Callable[[np.ndarray], np.ndarray]  # rows (n, genes) -> (n,)


@dataclass(frozen=True, eq=False)
class Objective:
    """A number of an architecture that is to be small or large, and the bounds that it must keep (both included)."""

    name: str  # of its column, with the unit: "mflops", "parameters", "latency_ms", "top1"
    of: OfRows | None  # None: the search's score
    larger_is_better: bool = False
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"params.yaml: search.bounds.{self.name}: nothing is at least {self.low:g} and at most {self.high:g}")

    def within(self, values: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) bool: which keep the bounds."""
        return (values >= self.low) & (values <= self.high)

    def beyond(self, values: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) how far outside the bounds, in the objective's unit; 0 within."""
        return np.maximum(np.maximum(self.low - values, values - self.high), 0.0)

    def loss(self, values: np.ndarray) -> np.ndarray:
        """(n,) -> (n,) lower is better."""
        return -values if self.larger_is_better else values


def of_score(name: str = "top1", low: float = -np.inf, high: float = np.inf) -> Objective:
    """What is evaluated, larger is better."""
    return Objective(name, None, True, low, high)


def of_table(name: str, table: CostTable, low: float | None = None, high: float | None = None) -> Objective:
    """A cost that a table holds: FLOPs, parameters, latency; smaller is better.

    Args:
        name: of its column, e.g. "mflops".
        table: the costs.
        low: least cost of interest in the table's unit; None for no bound.
        high: greatest cost of interest.

    Raises:
        InfeasibleTarget: if no architecture costs between the bounds; states the achievable range.
    """
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    table.check_between(low, high, f"change params.yaml: search.bounds.{name}")
    return Objective(name, table.costs, False, low, high)


@dataclass(frozen=True, eq=False)
class Problem:
    """A space and its objectives, one of them the score; the first of the others is the cost that results are ordered by."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Objective, ...] = ()  # bounds on what is not an objective itself

    def __post_init__(self) -> None:
        everything = (*self.objectives, *self.constraints)
        names = [o.name for o in everything]
        if len(set(names)) < len(names):
            raise ValueError(f"objectives {names}: each needs a name of its own")
        if sum(o.of is None for o in self.objectives) != 1 or any(o.of is None for o in self.constraints) or not self.costs:
            raise ValueError(f"objectives {[o.name for o in self.objectives]}: the score, once, and at least one function of architectures")
        if not self.score.larger_is_better:
            raise ValueError(f"the score {self.score.name!r} has to be one of which more is better; negate it")

    @cached_property
    def costs(self) -> tuple[Objective, ...]:
        """The objectives that need no evaluation."""
        return tuple(o for o in self.objectives if o.of is not None)

    @cached_property
    def score(self) -> Objective:
        """The objective that is evaluated."""
        return next(o for o in self.objectives if o.of is None)

    def cost(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n,) the first cost, the column `cost` of `Evaluated`."""
        return np.asarray(self.costs[0].of(rows), dtype=np.float64)

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """(n, genes) -> (n,) bool: which keep all bounds that can be checked without an evaluation."""
        ok = np.ones(len(rows), dtype=bool)
        for objective in (*self.costs, *self.constraints):
            if np.isfinite(objective.low) or np.isfinite(objective.high):
                ok &= objective.within(objective.of(rows))
        return ok

    def losses(self, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(n, genes) and (n,) -> (n, objectives), lower is better."""
        return np.stack([o.loss(np.asarray(scores if o.of is None else o.of(rows), dtype=np.float64)) for o in self.objectives], axis=1)

    def front(self, evaluated: Evaluated) -> np.ndarray:
        """Indices (f,) of the Pareto set of what keeps the bounds, the first cost ascending.

        Raises:
            ValueError: if nothing does; says how near the best came.
        """
        scores, within = evaluated.score, self._within(evaluated)
        if not len(within):
            raise ValueError(
                f"none of {len(evaluated)} evaluated architectures keeps the bounds; {self.score.name} was {scores.min():g} to "
                f"{scores.max():g}, {self.score.low:g} to {self.score.high:g} is asked for; widen search.bounds in params.yaml"
            )
        front = within[metrics.front(self.losses(evaluated.rows[within], scores[within]))]
        return front[np.argsort(evaluated.cost[front], kind="stable")]

    def hypervolume(self, evaluated: Evaluated, reference: Sequence[float], scale: Sequence[float]) -> float:
        """Volume that the front dominates up to the reference, each objective divided by its scale; larger is better.

        With MFLOPs and top-1, reference (largest, chance) and scale (largest, 100) it is `nas.search.family.hypervolume`.

        Args:
            evaluated: what was searched; what breaks the bounds adds nothing.
            reference: (objectives,) the worst of interest, in the objectives' units and order.
            scale: (objectives,) in the objectives' units.
        """
        within = self._within(evaluated)
        if not len(within):
            return 0.0
        scale, signs = np.asarray(scale, dtype=np.float64), np.where([o.larger_is_better for o in self.objectives], -1.0, 1.0)
        losses = self.losses(evaluated.rows[within], evaluated.score[within])
        return metrics.volume(losses / scale, signs * np.asarray(reference, dtype=np.float64) / scale)

    def to_frame(self, evaluated: Evaluated) -> pd.DataFrame:
        """One column a gene, then the objectives and constraints by their names, `round`, `front`: whether it is in the Pareto set."""
        genes = pd.DataFrame(evaluated.rows, columns=[g.name for g in self.space.genes])
        values = {o.name: evaluated.score if o.of is None else o.of(evaluated.rows) for o in (*self.objectives, *self.constraints)}
        front = np.isin(np.arange(len(evaluated)), self.front(evaluated))
        return genes.assign(**values, round=evaluated.round, front=front)

    def _within(self, evaluated: Evaluated) -> np.ndarray:
        """Indices of what keeps all bounds."""
        return np.flatnonzero(self.allowed(evaluated.rows) & self.score.within(evaluated.score))

"""Section `search` of params.yaml, and what it describes: the problem, and how architectures are drawn within its bounds."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, create_model, model_validator

from nas.cost import registry
from nas.cost.registry import CostName
from nas.cost.table import CostTable
from nas.runtime.params import Section
from nas.sampling.exact import ExactSampler
from nas.sampling.uniform import StratifiedDraw, Unconstrained
from nas.search import bayesian, evolution, nsga2
from nas.search.archive import Archive
from nas.search.operators import Draw
from nas.search.problem import Problem, cost_objective, score_objective
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, SearchSpace

NO_LATENCY_TABLE = "devices/none.json"  # a file, since dvc.yaml makes search depend on the path that search.latency_table names
COST_BUCKETS = 64  # of the exact samplers that draw first architectures
BOUND_SAMPLES = 2000  # random architectures that the tightest bound is determined on


class Bound(Section):
    """The least and the greatest value of interest, both included; null: no bound."""

    min: float | None = None
    max: float | None = None

    @property
    def range(self) -> tuple[float, float]:
        """Infinite where there is no bound."""
        return -np.inf if self.min is None else self.min, np.inf if self.max is None else self.max


# section `search.bounds`: each cost, and top1, percent, on the search images
Bounds = create_model("Bounds", __base__=Section, **{name: (Bound, Bound()) for name in (*registry.COSTS, "top1")})


class Search(Section):
    """Section `search`."""

    weights: Literal["early", "final"]
    score: Literal["measured", "predicted"]
    latency_table: str  # file
    costs: Annotated[tuple[CostName, ...], Field(min_length=1)]  # objectives beside the score; the first orders the family
    bounds: Bounds
    models: Annotated[int, Field(ge=1)] | None  # of the family, or
    targets: tuple[dict[CostName, float], ...] | None  # the most that each model may cost
    method: Literal["evolution", "nsga2", "bayesian", "random"]
    first: Literal["spread", "uniform"]  # the first architectures: evenly over the cost, or uniform over the space
    evolution: evolution.EvolutionConfig
    nsga2: nsga2.Nsga2Config
    bayesian: bayesian.BayesianConfig
    random: evolution.RandomSearchConfig
    baseline: bool  # random search with as many evaluations, to compare

    @model_validator(mode="after")
    def _family_is_described_once(self) -> Self:
        if (self.models is None) == (self.targets is None):
            raise ValueError("either models or targets is needed, and not both")
        if len(set(self.costs)) < len(self.costs):
            raise ValueError(f"costs {list(self.costs)}: each can be named once")
        return self

    @model_validator(mode="after")
    def _latency_has_a_table(self) -> Self:
        if self.latency_table == NO_LATENCY_TABLE and (keys := self._keys_that_name_latency()):
            raise ValueError(
                f"search.{keys[0]} names latency_ms, but search.latency_table is {NO_LATENCY_TABLE}; "
                "set search.latency_table to outputs/latency/table.json (this device) or to the table of another device"
            )
        return self

    def _keys_that_name_latency(self) -> list[str]:
        bounded = self.bounds.latency_ms != Bound()
        targeted = any("latency_ms" in target for target in self.targets or ())
        return [key for key, named in (("costs", "latency_ms" in self.costs), ("bounds", bounded), ("targets", targeted)) if named]


def cost_tables(space: SearchSpace, classes: int, latency_table: str) -> dict[str, CostTable]:
    """Every cost of the space's architectures by name; without latency_ms if there is no table.

    Raises:
        FileNotFoundError, ValueError: if the latency table is missing, damaged or of another space.
    """
    return registry.tables(space, classes, {"latency_table": None if latency_table == NO_LATENCY_TABLE else latency_table})


def build_problem(cfg: Search, tables: Mapping[str, CostTable]) -> Problem:
    """Objectives and bounds; costs that are not objectives are constraints, so that they are reported.

    Raises:
        InfeasibleTarget: if nothing lies within a bound, or nothing costs what a target says; states the achievable range.
    """
    for target in cfg.targets or ():
        for name, cost in target.items():
            if not tables[name].smallest <= cost <= tables[name].largest:
                raise tables[name].infeasible(f"{cost:g} {tables[name].unit}", "change params.yaml: search.targets")
    objectives = {
        name: cost_objective(name, table, bound.min, bound.max) for name, table in tables.items() for bound in [getattr(cfg.bounds, name)]
    }
    score = score_objective("top1", *cfg.bounds.top1.range)
    space = next(iter(tables.values())).space
    constraints = tuple(objective for name, objective in objectives.items() if name not in cfg.costs)
    return Problem(space, (*(objectives[name] for name in cfg.costs), score), constraints)


def hypervolume_of(problem: Problem, tables: Mapping[str, CostTable], chance: float) -> Callable[[Archive], float]:
    """Hypervolume over all objectives, each cost as a share of the space's largest, top-1 as a share of 100; in [0, 1].

    Args:
        chance: top-1 at chance level, percent.
    """
    largest = [tables[o.name].largest for o in problem.costs]
    return lambda evaluated: problem.hypervolume(evaluated, [*largest, chance], [*largest, 100.0])


def draws(first: Literal["spread", "uniform"], problem: Problem, tables: Mapping[str, CostTable]) -> tuple[Draw, Draw]:
    """How first architectures are drawn, and how random search draws: within the tightest bound.

    Args:
        first: spread evenly over the cost, or as random search draws.
    """
    bounded = [o for o in (*problem.costs, *problem.constraints) if np.isfinite([o.low, o.high]).any()]
    rows = encoding.random_genes(problem.space, BOUND_SAMPLES, np.random.default_rng(0))
    tightest = min(bounded or problem.costs, key=lambda o: o.within(o.of(rows)).mean())
    table = tables[tightest.name]
    sampler = ExactSampler(table, (table.largest - table.smallest) / COST_BUCKETS)
    low, high = max(tightest.low, table.smallest), min(tightest.high, table.largest)

    def between(low: float, high: float, n: int, rng: np.random.Generator) -> list[Arch]:
        return sampler.draw_between(low, high, n, rng).archs()

    random = (lambda n, rng: between(low, high, n, rng)) if bounded else Unconstrained(problem.space)
    return StratifiedDraw(between, low, high) if first == "spread" else random, random

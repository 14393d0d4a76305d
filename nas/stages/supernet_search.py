"""A search over a supernet with its random baseline, resumable, and the family from it: for stage search and for studies."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch

from nas.cost.table import CostTable
from nas.evaluation.metrics import search_metrics
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.distributed import RankZeroCheckpoint
from nas.runtime.progress import progress
from nas.search import bayesian, evolution, nsga2
from nas.search.archive import Archive, ScoreCache
from nas.search.family import Model, family_for_targets, pareto_family
from nas.search.loop import Method, Score, search
from nas.search.predictor import Forest
from nas.search.problem import Problem
from nas.search.setup import Search, draws, hypervolume_of
from nas.spaces import encoding
from nas.spaces.mbconv import Arch
from nas.stages import runner
from nas.tracking.runs import StageRun

ROUND_EVALUATIONS = 64  # of random search
CURVES = ("hypervolume", "top1_best", "hypervolume_objectives")

Measure = Callable[[Archive], dict[str, float]]


def predict(archs: list[Arch]) -> np.ndarray:
    """Top-1 by the accuracy predictor, percent, (n,)."""
    return Forest.load(runner.out("fit_predictor") / "forest.npz").predict(encoding.to_genes(archs))


def run_searches(
    cfg: Search,
    problem: Problem,
    tables: dict[str, CostTable],
    score: Score,
    cache: ScoreCache,
    measure: Measure,
    seed: int,
    run: StageRun,
    checkpoint: Checkpoint | RankZeroCheckpoint,
) -> dict[str, Archive]:
    """All architectures that the chosen method evaluated, by its name, and those of random search with as many evaluations.

    Each search continues from its last whole round.

    Args:
        measure: what the curves in MLflow show, against the number of evaluations.
    """
    state = checkpoint.load() or {}
    first, random = draws(cfg.first, problem, tables)

    def searched(name: str, method: Method) -> Archive:
        def with_progress(archs: list[Arch]) -> Iterable[float]:
            return progress(score(archs), f"search: {name}", len(archs))

        suffix = "" if name == cfg.method else f"_{name}"

        def save(evaluated: Archive, number: int) -> None:
            run.log({f"search/{key}{suffix}": value for key, value in measure(evaluated).items() if key in CURVES}, len(evaluated))
            state[name] = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in evaluated.to_arrays().items()}
            checkpoint.save(state)

        before = Archive(**{k: v.numpy() for k, v in state[name].items()}) if name in state else None
        return search(method, problem, score=with_progress, seed=seed, cache=cache, archive=before, on_round=save)

    methods = {
        "evolution": evolution.Evolution(cfg.evolution, first),
        "nsga2": nsga2.Nsga2(cfg.nsga2, first),
        "bayesian": bayesian.Bayesian(cfg.bayesian, first),
        "random": evolution.RandomSearch(cfg.random.evaluations, ROUND_EVALUATIONS, random),
    }
    archives = {cfg.method: searched(cfg.method, methods[cfg.method])}
    if cfg.baseline and cfg.method != "random":
        archives["random"] = searched("random", evolution.RandomSearch(len(archives[cfg.method]), ROUND_EVALUATIONS, random))
    return archives


def choose_family(cfg: Search, problem: Problem, evaluated: Archive, prefix: str) -> list[Model]:
    """The Pareto models that `search.models` or `search.targets` describes.

    Args:
        prefix: of their names.
    """
    if cfg.targets is None:
        return pareto_family(evaluated[problem.front(evaluated)], prefix, cfg.models)
    return family_for_targets(problem, evaluated, prefix, cfg.targets)


def search_measure(cfg: Search, problem: Problem, tables: Mapping[str, CostTable], chance: float) -> Measure:
    """Metrics of an archive, by MFLOPs and top-1 whatever the objectives are, so that all runs compare.

    Args:
        chance: top-1 at chance level, percent.
    """
    mflops, area = tables["mflops"], hypervolume_of(problem, tables, chance)

    def measure(evaluated: Archive) -> dict[str, float]:
        values = search_metrics(mflops.costs(evaluated.rows), evaluated.score, (mflops.smallest, mflops.largest), chance)
        return values | ({} if cfg.costs == ("mflops",) else {"hypervolume_objectives": area(evaluated)})

    return measure


def metrics(cfg: Search, archives: Mapping[str, Archive], measure: Measure) -> dict[str, float]:
    """Of the chosen method, and the hypervolume of random search."""
    values = {"evaluations": len(archives[cfg.method])} | measure(archives[cfg.method])
    return values | ({"hypervolume_random": measure(archives["random"])["hypervolume"]} if len(archives) > 1 else {})


def history(archives: Mapping[str, Archive], measure: Measure) -> pd.DataFrame:
    """The curves: one row per method and round, with method, evaluations, hypervolume, top1_best (percent)."""
    rounds = [(name, archive[archive.round <= number]) for name, archive in archives.items() for number in np.unique(archive.round)]
    rows = [{"method": name, "evaluations": len(part), **measure(part)} for name, part in rounds]
    return pd.DataFrame(rows).filter(["method", "evaluations", *CURVES])

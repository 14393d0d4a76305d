"""Stage search: the Pareto set by the chosen method, the family from it, random search with the same budget beside it.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.5. The search scores with the final weights, or
with those of an early epoch where the search images were trained on too (`search.weights`), or by what
the accuracy predictor makes of an architecture (`search.score`). Each score is kept below .checkpoints/scores by
what it was measured with, so that no architecture is ever evaluated twice, in this search or in another one.

params   params.yaml: seed, space, runtime, evaluation, search
reads    outputs/split/, outputs/train/weights.safetensors, early.safetensors, outputs/fit_predictor/forest.npz, the latency table
writes   outputs/search/evaluated.parquet   one column a gene, mflops, parameters, latency_ms (by the table), top1 (percent, part
                                            `search`), round, front, method
         outputs/search/family.json         name, arch, mflops, parameters, top1_search, top1_val (percent, final weights)
         outputs/search/family/             <name>.safetensors: calibrated networks with the final weights
         outputs/search/metrics.json        {"evaluations", "hypervolume", "top1_low", "top1_best", "family"}; with a baseline
                                            {"hypervolume_random"}; with other costs than MFLOPs alone {"hypervolume_objectives"}
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
import torch
from pydantic import Field, create_model, model_validator

from nas.cost import registry
from nas.cost.registry import CostName
from nas.cost.table import CostTable
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import Scorer
from nas.evaluation.metrics import hypervolume, search_metrics
from nas.models.extract import Network
from nas.runtime import distributed, params, processes
from nas.runtime.checkpoint import Checkpoint, load_weights, save_weights
from nas.runtime.progress import progress
from nas.sampling.exact import ExactSampler
from nas.sampling.uniform import StratifiedDraw, Unconstrained
from nas.search import bayesian, evolution, nsga2
from nas.search.archive import Archive, ScoreCache
from nas.search.family import Model, family_for_targets, pareto_family
from nas.search.loop import Method, Score, search
from nas.search.operators import Draw
from nas.search.predictor import Forest
from nas.search.problem import Problem, cost_objective, score_objective
from nas.spaces import encoding
from nas.spaces.mbconv import Arch
from nas.stages import runner, split
from nas.stages.check import check_all
from nas.stages.errors import user_errors
from nas.tracking import provenance
from nas.tracking.session import StageRun

OUT = runner.OUTPUTS / "search"
TRAINED = runner.OUTPUTS / "train"
PREDICTOR = runner.OUTPUTS / "fit_predictor" / "forest.npz"
SCORES = ".checkpoints/scores"  # below the project's root
BUCKETS = 64  # of the exact samplers that draw first architectures
BLOCK = 64  # architectures that random search evaluates in a round
MANY = 2000  # random architectures by which the tightest bound is found


class Bound(params.Section):
    """The least and the greatest value of interest, both included; null: no bound."""

    min: float | None = None
    max: float | None = None


# section `search.bounds`: each cost, and top1, percent, on the search images
Bounds = create_model("Bounds", __base__=params.Section, **{name: (Bound, Bound()) for name in (*registry.COSTS, "top1")})


class Search(params.Section):
    """Section `search`."""

    weights: Literal["early", "final"]
    score: Literal["measured", "predicted"]
    latency_table: str  # file
    costs: Annotated[tuple[CostName, ...], Field(min_length=1)]  # objectives beside the score; the first orders the family
    bounds: Bounds
    models: Annotated[int, Field(ge=1)] | None  # of the family, or
    targets: tuple[dict[CostName, float], ...] | None  # what each model may cost
    method: Literal["evolution", "nsga2", "bayesian", "random"]
    first: Literal["spread", "uniform"]  # the first architectures: evenly over the cost, or as they come
    evolution: evolution.EvolutionConfig
    nsga2: nsga2.Nsga2Config
    bayesian: bayesian.BayesianConfig
    random: evolution.RandomSearchConfig
    baseline: bool  # random search with as many evaluations beside it

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if (self.models is None) == (self.targets is None):
            raise ValueError("either models or targets is needed, and not both")
        if len(set(self.costs)) < len(self.costs):
            raise ValueError(f"costs {list(self.costs)}: each can be named once")
        return self


def main() -> None:
    p = params.read("search", Search)
    _, runtime, evaluation = runner.shared()
    seed, space = runner.seed(), runner.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "search": p}
    with runner.stage("search", sections) as (run, checkpoint):
        data = open_dataset(split.OUT)
        known = registry.tables(space, len(data.classes), p.model_dump())
        problem = stated(p, known)
        device = runtime.start()
        supernet = runner.new_supernet(space, len(data.classes), seed).to(device)
        weights = TRAINED / ("early.safetensors" if p.weights == "early" else "weights.safetensors")
        load_weights(weights, supernet)
        run.dataset("outputs/split/splits.parquet", "search", images=len(data.indices("search")))
        if p.score == "measured":
            score, cache = runner.scorer(supernet, data, "search", evaluation, runtime, device, seed).top1_all, scores(str(weights), p)
        else:
            score, cache = predicted, ScoreCache()
        area = volume(problem, known, 100 / len(data.classes))
        found = searches(p, problem, known, score, cache, area, seed, run, checkpoint)
        frames = [problem.to_frame(each).assign(method=name) for name, each in found.items()]
        evaluated = pd.concat(frames, ignore_index=True)
        if distributed.is_first():
            evaluated.to_parquet(OUT / "evaluated.parquet", index=False)
            run.table(evaluated, "evaluated.json")

        best = found[p.method]
        if p.targets is None:
            models = pareto_family(best[problem.front(best)], data.key, p.models)
        else:
            models = family_for_targets(problem, best, data.key, p.targets)
        load_weights(TRAINED / "weights.safetensors", supernet)
        final = runner.scorer(supernet, data, "val", evaluation, runtime, device, seed)
        rows = [row(model, known, final) for model in progress(models, "search: family calibrated", len(models))]
        if distributed.is_first():
            runner.write_json(OUT / "family.json", rows)
        metrics = found_figures(p, found, known["mflops"], 100 / len(data.classes))
        if p.costs != ("mflops",):
            metrics["hypervolume_objectives"] = area(best)
        runner.finish("search", metrics | {"family": len(models)}, run)


def found_figures(p: Search, found: dict[str, Archive], mflops: CostTable, chance: float) -> dict[str, float]:
    """By MFLOPs and top-1 whatever was searched for, so that all runs compare; chance in percent."""
    best = found[p.method]
    metrics = {"evaluations": len(best)}
    metrics |= search_metrics(mflops.costs(best.rows), best.score, (mflops.smallest, mflops.largest), chance)
    if len(found) > 1:
        drawn = found["random"]
        metrics["hypervolume_random"] = hypervolume(mflops.costs(drawn.rows), drawn.score, mflops.largest, chance)
    return metrics


def stated(p: Search, known: dict[str, CostTable]) -> Problem:
    """Objectives and bounds; costs that are no objective are reported all the same.

    Raises:
        InfeasibleTarget: if nothing lies within a bound, or nothing costs what a target says; states the achievable range.
    """
    for target in p.targets or ():
        for name, cost in target.items():
            if not known[name].smallest <= cost <= known[name].largest:
                raise known[name].infeasible(f"{cost:g} {known[name].unit}", "change params.yaml: search.targets")
    each = {name: cost_objective(name, table, bound.min, bound.max) for name, table in known.items() for bound in [getattr(p.bounds, name)]}
    low, high = p.bounds.top1.min, p.bounds.top1.max
    score = score_objective("top1", -np.inf if low is None else low, np.inf if high is None else high)
    space = next(iter(known.values())).space
    return Problem(space, (*(each[name] for name in p.costs), score), tuple(o for name, o in each.items() if name not in p.costs))


def volume(problem: Problem, known: dict[str, CostTable], chance: float) -> Callable[[Archive], float]:
    """Hypervolume over all objectives, each cost as a share of the greatest there is, top-1 as a share of 100; in [0, 1]."""
    greatest = [known[o.name].largest for o in problem.costs]
    return lambda evaluated: problem.hypervolume(evaluated, [*greatest, chance], [*greatest, 100.0])


def scores(weights: str, p: Search) -> ScoreCache:
    """The scores that were measured before with the same weights, images, settings and code; the first process keeps the file.

    Args:
        weights: the file that is searched with, as dvc.yaml names it.
        p: whose costs and ways of searching make no difference.
    """
    cache = ScoreCache() if not distributed.is_first() else kept_scores(weights, p)
    if distributed.world_size() > 1:
        rows, found = cache.known()
        state = distributed.broadcast({"rows": torch.from_numpy(rows), "scores": torch.from_numpy(found)})
        for row, score in zip(state["rows"].numpy(), state["scores"].tolist()) if not distributed.is_first() else ():
            cache.put(row, score)
    return cache


def kept_scores(weights: str, p: Search) -> ScoreCache:
    """The file of `scores`, named after all that a score depends on."""
    others = ("nas/search", "nas/stages/search.py", "nas/sampling", "nas/evaluation/metrics.py", "nas/cost", p.latency_table)
    others += ("outputs/fit_predictor", "outputs/train")
    deps = {path: md5 for path, md5 in provenance.inputs("search").items() if path == weights or not path.startswith(others)}
    sections = {name: params.read_all()[name] for name in ("seed", "space", "runtime", "evaluation")}
    key = hashlib.sha256(json.dumps([deps, sections], sort_keys=True).encode()).hexdigest()
    folder = processes.project_root() / SCORES
    folder.mkdir(parents=True, exist_ok=True)
    return ScoreCache(key, folder / f"{key[:16]}.jsonl")


def predicted(archs: list[Arch]) -> np.ndarray:
    """What the accuracy predictor expects of architectures, percent."""
    return Forest.load(PREDICTOR).predict(encoding.to_genes(archs))


def searches(
    p: Search,
    problem: Problem,
    known: dict[str, CostTable],
    score: Score,
    cache: ScoreCache,
    area: Callable[[Archive], float],
    seed: int,
    run: StageRun,
    checkpoint: Checkpoint,
) -> dict[str, Archive]:
    """By the chosen method, then random search with as many evaluations; each goes on where it stopped."""
    state = checkpoint.load() or {}
    first, anywhere = draws(p, problem, known)

    def searched(name: str, method: Method) -> Archive:
        def shown(archs: list[Arch]) -> Iterable[float]:
            return progress(score(archs), f"search: {name}", len(archs))

        def save(evaluated: Archive, number: int) -> None:
            run.log({f"search/{name}_hypervolume": area(evaluated), f"search/{name}_best_top1": evaluated.score.max()}, number)
            state[name] = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in evaluated.to_arrays().items()}
            checkpoint.save(state)

        before = Archive(**{k: v.numpy() for k, v in state[name].items()}) if name in state else None
        return search(method, problem, score=shown, seed=seed, cache=cache, archive=before, on_round=save)

    methods = {
        "evolution": evolution.Evolution(p.evolution, first),
        "nsga2": nsga2.Nsga2(p.nsga2, first),
        "bayesian": bayesian.Bayesian(p.bayesian, first),
        "random": evolution.RandomSearch(p.random.evaluations, BLOCK, anywhere),
    }
    found = {p.method: searched(p.method, methods[p.method])}
    if p.baseline and p.method != "random":
        found["random"] = searched("random", evolution.RandomSearch(len(found[p.method]), BLOCK, anywhere))
    return found


def draws(p: Search, problem: Problem, known: dict[str, CostTable]) -> tuple[Draw, Draw]:
    """How first architectures are drawn, and how random search draws: within the bound that the fewest keep."""
    bounded = [o for o in (*problem.costs, *problem.constraints) if np.isfinite([o.low, o.high]).any()]
    some = encoding.random_genes(problem.space, MANY, np.random.default_rng(0))
    tightest = min(bounded or problem.costs, key=lambda o: o.within(o.of(some)).mean())
    table = known[tightest.name]
    sampler = ExactSampler(table, (table.largest - table.smallest) / BUCKETS)
    low, high = max(tightest.low, table.smallest), min(tightest.high, table.largest)

    def between(low: float, high: float, n: int, rng: np.random.Generator) -> list[Arch]:
        return sampler.draw_between(low, high, n, rng).archs()

    anywhere = (lambda n, rng: between(low, high, n, rng)) if bounded else Unconstrained(problem.space)
    return StratifiedDraw(between, low, high) if p.first == "spread" else anywhere, anywhere


def row(model: Model, known: dict[str, CostTable], final: Scorer) -> dict:
    """A model's entry in family.json; its calibrated network is written beside it."""
    network = final.network(model.arch)
    if distributed.is_first():
        save_weights(OUT / "family" / f"{model.name}.safetensors", network)
    return {
        "name": model.name,
        "arch": encoding.to_json(model.arch),
        "mflops": known["mflops"].cost(model.arch),
        "parameters": sum(p.numel() for p in network.parameters()),
        "top1_search": model.score,
        "top1_val": final.top1_of(network),
    }


def load_model(entry: dict, searched: runner.SearchSpace, classes: int) -> Network:
    """The calibrated network of an entry of family.json, in eval mode on the CPU."""
    network = Network(searched, encoding.from_json(entry["arch"]), classes)
    load_weights(OUT / "family" / f"{entry['name']}.safetensors", network)
    return network.eval()


if __name__ == "__main__":
    user_errors(lambda: distributed.launch(main, check_all))

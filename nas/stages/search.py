"""Stage search: the Pareto front by the chosen method, the family from it, random search with the same budget to compare.

AttentiveNAS (arXiv:2011.09011), sections 4.2 and 4.5. The search scores with the final weights, or with those of an early
epoch where the search images were trained on too (`search.weights`), or by the accuracy predictor (`search.score`). Each score is
stored below .checkpoints/scores under what it depends on, so that no architecture is evaluated twice, in this or earlier searches.

params   params.yaml: seed, space, runtime, evaluation, search
reads    outputs/split/, outputs/train/weights.safetensors, early.safetensors, outputs/fit_predictor/forest.npz, the latency table
writes   outputs/search/evaluated.parquet   one column per gene, mflops, parameters, latency_ms (by the table, if there is one), top1
                                            (percent, part `search`), round, front, method
         outputs/search/history.csv         per round: method, evaluations, hypervolume, top1_best (percent), with other costs than MFLOPs
                                            alone hypervolume_objectives
         outputs/search/family.json         name, arch, mflops, parameters, top1_search, top1_val (percent, final weights)
         outputs/search/family/             <name>.safetensors: calibrated networks with the final weights
         outputs/search/metrics.json        {"evaluations", "hypervolume", "top1_low", "top1_best", "family"}; with a baseline
                                            {"hypervolume_random"}; with other costs than MFLOPs alone {"hypervolume_objectives"}
"""

import hashlib
import json
from pathlib import Path

import pandas as pd
import torch

from nas.cost.table import CostTable
from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import Scorer, build_scorer
from nas.models.supernet import new_supernet
from nas.runtime import distributed, params, processes
from nas.runtime.checkpoint import load_weights, save_weights
from nas.runtime.progress import progress
from nas.search.archive import Archive, ScoreCache
from nas.search.family import Model
from nas.search.problem import Problem
from nas.search.setup import Search, build_problem, cost_tables
from nas.spaces import encoding
from nas.stages import config, runner, supernet_search
from nas.tracking import provenance

SCORES = ".checkpoints/scores"  # below the project's root


def main() -> None:
    cfg = params.read("search", Search)
    _, runtime, evaluation = config.shared()
    seed, space = params.seed(), config.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "search": cfg}
    with runner.stage("search", sections) as stage:
        data = open_dataset(runner.out("split"))
        chance = 100 / len(data.classes)
        tables = cost_tables(space, len(data.classes), cfg.latency_table)
        problem = build_problem(cfg, tables)
        device = runtime.start()
        supernet = new_supernet(space, len(data.classes), seed).to(device)
        weights = runner.out("train") / ("early.safetensors" if cfg.weights == "early" else "weights.safetensors")
        load_weights(weights, supernet)
        stage.run.dataset("outputs/split/splits.parquet", "search", images=len(data.indices("search")))
        if cfg.score == "measured":
            score = build_scorer(supernet, data, "search", evaluation, runtime, device, seed).top1_all
            cache = cached_scores(str(weights), cfg.latency_table)
        else:
            score, cache = supernet_search.predict, ScoreCache()
        measure = supernet_search.search_measure(cfg, problem, tables, chance)
        archives = supernet_search.run_searches(cfg, problem, tables, score, cache, measure, seed, stage.run, stage.checkpoint)
        save_evaluated(problem, archives, measure, stage)

        models = supernet_search.choose_family(cfg, problem, archives[cfg.method], data.key)
        load_weights(runner.out("train") / "weights.safetensors", supernet)
        final = build_scorer(supernet, data, "val", evaluation, runtime, device, seed)
        entries = [family_entry(model, tables, final, stage.out) for model in progress(models, "search: family calibrated", len(models))]
        if distributed.is_first():
            runner.write_json(stage.out / "family.json", entries)
        stage.finish(supernet_search.metrics(cfg, archives, measure) | {"family": len(models)})


def save_evaluated(problem: Problem, archives: dict[str, Archive], measure: supernet_search.Measure, stage: runner.Stage) -> None:
    """evaluated.parquet, which MLflow shows as a table, and history.csv."""
    evaluated = pd.concat([problem.to_frame(archive).assign(method=name) for name, archive in archives.items()], ignore_index=True)
    if distributed.is_first():
        evaluated.to_parquet(stage.out / "evaluated.parquet", index=False)
        supernet_search.history(archives, measure).to_csv(stage.out / "history.csv", index=False)
        stage.run.table(evaluated, "evaluated.json")


def cached_scores(weights: str, latency_table: str) -> ScoreCache:
    """The scores of earlier searches with the same weights, images, parameters and code; the first process writes the file.

    Args:
        weights: the file that the search scores with, as dvc.yaml names it.
        latency_table: the file, on which no score depends.
    """
    cache = ScoreCache() if not distributed.is_first() else score_file(weights, latency_table)
    if distributed.world_size() > 1:
        rows, scores = cache.known()
        state = distributed.broadcast({"rows": torch.from_numpy(rows), "scores": torch.from_numpy(scores)})
        for row, score in zip(state["rows"].numpy(), state["scores"].tolist()) if not distributed.is_first() else ():
            cache.put(row, score)
    return cache


def score_file(weights: str, latency_table: str) -> ScoreCache:
    """The file of `cached_scores`, named after the hash of all that a score depends on; costs and search methods do not count."""
    irrelevant = ("nas/search", "nas/stages/search", "nas/sampling", "nas/evaluation/metrics.py", "nas/cost", latency_table)
    irrelevant += ("outputs/fit_predictor", "outputs/train")
    deps = {path: md5 for path, md5 in provenance.inputs("search").items() if path == weights or not path.startswith(irrelevant)}
    sections = {name: params.read_all()[name] for name in ("seed", "space", "runtime", "evaluation")}
    key = hashlib.sha256(json.dumps([deps, sections], sort_keys=True).encode()).hexdigest()
    folder = processes.project_root() / SCORES
    folder.mkdir(parents=True, exist_ok=True)
    return ScoreCache(key, folder / f"{key[:16]}.jsonl")


def family_entry(model: Model, tables: dict[str, CostTable], final: Scorer, out: Path) -> dict:
    """A model's entry in family.json; writes its calibrated network to family/."""
    network = final.network(model.arch)
    if distributed.is_first():
        save_weights(out / "family" / f"{model.name}.safetensors", network)
    return {
        "name": model.name,
        "arch": encoding.to_json(model.arch),
        "mflops": tables["mflops"].cost(model.arch),
        "parameters": sum(p.numel() for p in network.parameters()),
        "top1_search": model.score,
        "top1_val": final.top1_of(network),
    }


if __name__ == "__main__":
    runner.execute(main, config.check_all)

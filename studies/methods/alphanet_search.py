"""Stage alphanet_search: the main pipeline's search over AlphaNet's supernet, and its Pareto family.

AlphaNet (arXiv:2102.07954). Method, budget, images, targets and bounds are those of stage search in params.yaml.

params   params.yaml: seed, space, runtime, evaluation, search
reads    outputs/split/, alphanet/weights.safetensors, early.safetensors, outputs/fit_predictor/forest.npz, the latency table
writes   alphanet_search/evaluated.parquet    as outputs/search/evaluated.parquet
         alphanet_search/history.csv          as outputs/search/history.csv
         alphanet_search/family.json          as outputs/search/family.json
         alphanet_search/family.safetensors   the calibrated networks, as <name>.<parameter>
         alphanet_search/metrics.json         {"evaluations", "hypervolume", "top1_low", "top1_best", "family"}; with other costs than
                                              MFLOPs alone {"hypervolume_objectives"}
"""

from torch import nn

from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import build_scorer
from nas.models.supernet import new_supernet
from nas.runtime import params
from nas.runtime.checkpoint import load_weights, save_weights
from nas.runtime.progress import progress
from nas.search.archive import ScoreCache
from nas.search.setup import Search, build_problem, cost_tables
from nas.spaces import encoding
from nas.stages import config as main_config
from nas.stages import runner, supernet_search
from studies.methods import config


def main() -> None:
    cfg = params.read("search", Search).model_copy(update={"baseline": False})
    _, runtime, evaluation = main_config.shared()
    seed, space = params.seed(), main_config.search_space()
    parameters = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "search": cfg}
    with runner.stage("alphanet_search", parameters, config.PIPELINE) as stage:
        data = open_dataset(runner.out("split"))
        chance = 100 / len(data.classes)
        tables = cost_tables(space, len(data.classes), cfg.latency_table)
        problem, device = build_problem(cfg, tables), runtime.start()
        supernet = new_supernet(space, len(data.classes), seed).to(device)
        load_weights(config.PIPELINE.out("alphanet") / ("early.safetensors" if cfg.weights == "early" else "weights.safetensors"), supernet)
        stage.run.dataset(str(runner.out("split") / "splits.parquet"), "search", images=len(data.indices("search")))
        measured = build_scorer(supernet, data, "search", evaluation, runtime, device, seed)
        score = measured.top1_all if cfg.score == "measured" else supernet_search.predict
        measure = supernet_search.search_measure(cfg, problem, tables, chance)
        archives = supernet_search.run_searches(cfg, problem, tables, score, ScoreCache(), measure, seed, stage.run, stage.checkpoint)
        best = archives[cfg.method]
        problem.to_frame(best).assign(method=cfg.method).to_parquet(stage.out / "evaluated.parquet", index=False)
        supernet_search.history(archives, measure).to_csv(stage.out / "history.csv", index=False)
        models = supernet_search.choose_family(cfg, problem, best, data.key)

        load_weights(config.PIPELINE.out("alphanet") / "weights.safetensors", supernet)
        final = build_scorer(supernet, data, "val", evaluation, runtime, device, seed)
        entries, networks = [], nn.ModuleDict()
        for model in progress(models, "alphanet_search: family calibrated", len(models)):
            networks[model.name] = final.network(model.arch)
            costs = {"mflops": tables["mflops"].cost(model.arch), "parameters": int(tables["parameters"].cost(model.arch))}
            accuracy = {"top1_search": model.score, "top1_val": final.top1_of(networks[model.name])}
            entries.append({"name": model.name, "arch": encoding.to_json(model.arch), **costs, **accuracy})
        runner.write_json(stage.out / "family.json", entries)
        save_weights(stage.out / "family.safetensors", networks)
        stage.finish(supernet_search.metrics(cfg, archives, measure) | {"family": len(models)})


if __name__ == "__main__":
    runner.execute(main)

"""Stage alphanet_search: the main pipeline's search over AlphaNet's supernet, and a family from it.

AlphaNet (arXiv:2102.07954). The same method, budget, images, targets and bounds as params.yaml says for stage search.

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
from nas.runtime import params
from nas.runtime.checkpoint import load_weights, save_weights
from nas.runtime.progress import progress
from nas.search.archive import ScoreCache
from nas.search.setup import Search, build_problem, cost_tables
from nas.spaces import encoding
from nas.stages import runner as main_pipeline
from nas.stages import searching, split
from nas.stages.errors import user_errors
from studies.methods import alphanet, config

OUT = config.PIPELINE.outputs / "alphanet_search"


def main() -> None:
    p = params.read("search", Search).model_copy(update={"baseline": False})
    _, runtime, evaluation = main_pipeline.shared()
    seed, space = main_pipeline.seed(), main_pipeline.search_space()
    parameters = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "search": p}
    with config.PIPELINE.stage("alphanet_search", parameters) as (run, checkpoint, out):
        data = open_dataset(split.OUT)
        chance = 100 / len(data.classes)
        known = cost_tables(space, len(data.classes), p.latency_table)
        problem, device = build_problem(p, known), runtime.start()
        supernet = main_pipeline.new_supernet(space, len(data.classes), seed).to(device)
        load_weights(alphanet.OUT / ("early.safetensors" if p.weights == "early" else "weights.safetensors"), supernet)
        run.dataset(str(split.OUT / "splits.parquet"), "search", images=len(data.indices("search")))
        measured = main_pipeline.scorer(supernet, data, "search", evaluation, runtime, device, seed)
        score = measured.top1_all if p.score == "measured" else searching.predict
        measure = searching.search_measure(p, problem, known, chance)
        found = searching.run_searches(p, problem, known, score, ScoreCache(), measure, seed, run, checkpoint)
        best = found[p.method]
        problem.to_frame(best).assign(method=p.method).to_parquet(out / "evaluated.parquet", index=False)
        searching.history(found, measure).to_csv(out / "history.csv", index=False)
        models = searching.choose_family(p, problem, best, data.key)

        load_weights(alphanet.OUT / "weights.safetensors", supernet)
        final = main_pipeline.scorer(supernet, data, "val", evaluation, runtime, device, seed)
        entries, networks = [], nn.ModuleDict()
        for model in progress(models, "alphanet_search: family calibrated", len(models)):
            networks[model.name] = final.network(model.arch)
            costs = {"mflops": known["mflops"].cost(model.arch), "parameters": int(known["parameters"].cost(model.arch))}
            reached = {"top1_search": model.score, "top1_val": final.top1_of(networks[model.name])}
            entries.append({"name": model.name, "arch": encoding.to_json(model.arch), **costs, **reached})
        main_pipeline.write_json(out / "family.json", entries)
        save_weights(out / "family.safetensors", networks)
        config.PIPELINE.finish(out, searching.metrics(p, found, measure) | {"family": len(models)}, run)


if __name__ == "__main__":
    user_errors(main)

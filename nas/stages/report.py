"""Stage report: the family on the test images, every figure, and one page that opens offline.

The only stage of the main pipeline that reads the test images of its dataset; nothing is selected on them.

params   params.yaml: seed, space, runtime, evaluation, train, search.costs, search.latency_table, report
reads    the outputs of all other stages but export; the latency table of the search or, where it takes none, that of stage latency
writes   outputs/report/family.csv       the family with its test accuracy, percent
         outputs/report/trials.csv       trials per sample by cost target (Figure 8)
         outputs/report/*.png            pareto, search, predictor, accuracy, loss, sampling, transfer
         outputs/report/index.html       all of it
         outputs/report/metrics.json     {"top1_<model>", "top1_smallest", "top1_largest"}  percent, test
"""

from pathlib import Path

import pandas as pd
import yaml

from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import build_scorer
from nas.models.extract import load_network
from nas.models.supernet import new_supernet
from nas.plots import page, style
from nas.runtime import params, seeding
from nas.runtime.checkpoint import load_weights
from nas.runtime.io import read_table
from nas.sampling.factorised import trials_study
from nas.search.setup import NO_LATENCY_TABLE, cost_tables
from nas.spaces import encoding
from nas.stages import config, runner

LATENCY = "outputs/latency/table.json"  # of this device, where the search takes no table


def main() -> None:
    cfg, trained = params.read("report", config.Report), params.read("train", config.Train)
    searched = params.read("search", config.ReportedSearch)
    _, runtime, evaluation = config.shared()
    seed, space = params.seed(), config.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "report": cfg}
    with runner.stage("report", sections, strategy=trained.strategy) as stage:
        device, searched_in = runtime.start(), runner.out("search")
        data = open_dataset(runner.out("split"))
        classes = len(data.classes)
        stage.run.dataset("outputs/split/splits.parquet", "test", images=len(data.indices("test")))
        supernet = new_supernet(space, classes, seed).to(device)
        load_weights(runner.out("train") / "weights.safetensors", supernet)
        test = build_scorer(supernet, data, "test", evaluation, runtime, device, seed)
        tables = cost_tables(space, classes, LATENCY if searched.latency_table == NO_LATENCY_TABLE else searched.latency_table)

        family = pd.DataFrame(encoding.read_family(searched_in / "family.json"))
        archs = [encoding.from_json(arch) for arch in family["arch"]]
        paths = [searched_in / "family" / f"{name}.safetensors" for name in family["name"]]
        networks = [load_network(path, space, arch, classes).to(device) for path, arch in zip(paths, archs)]
        family["top1_test"] = [test.top1_of(network) for network in networks]
        family["latency_ms"] = [tables["latency_ms"].cost(arch) for arch in archs]
        smallest, largest = test.top1_ends()
        rows = encoding.to_genes([space.smallest(), space.largest()])
        ends = pd.DataFrame({name: table.costs(rows) for name, table in tables.items()} | {"top1_test": [smallest, largest]})
        rng = seeding.generator(seed, "report", "trials")
        trials = trials_study(tables["mflops"], trained.bucket_mflops, trained.pool, cfg.trial_samples, rng)
        evaluated = read_table(searched_in / "evaluated.parquet", "dvc repro --force search")
        evaluated["latency_ms"] = tables["latency_ms"].costs(evaluated[[g.name for g in space.genes]].to_numpy())
        results = page.Results(
            dataset=data.title,
            classes=classes,
            images=data.parts.counts(),
            space=space.name,
            architectures=space.size,
            costs=tuple(dict.fromkeys([*searched.costs, "mflops", "latency_ms"])),
            strategy=trained.strategy,
            largest_mflops=tables["mflops"].largest,
            family=family,
            ends=ends,
            evaluated=evaluated,
            predictions=read_table(runner.out("fit_predictor") / "predictions.parquet", "dvc repro --force fit_predictor"),
            pretrain=read_table(runner.out("pretrain") / "history.csv", "dvc repro --force pretrain"),
            train=read_table(runner.out("train") / "history.csv", "dvc repro --force train"),
            transfer=read_table(runner.out("transfer") / "results.parquet", "dvc repro --force transfer"),
            trials=trials,
            params=yaml.safe_dump({k: v for k, v in params.read_all().items() if k != "tracking"}, sort_keys=False),
        )
        family.drop(columns="arch").to_csv(stage.out / "family.csv", index=False)
        trials.to_csv(stage.out / "trials.csv", index=False)
        save_figures(results, stage.out)
        (stage.out / "index.html").write_text(page.page(results))
        for path in sorted(stage.out.glob("*.png")):
            stage.run.artifact(path, "plots")
        stage.run.artifact(stage.out / "index.html")
        stage.run.table(family.drop(columns="arch"), "family.json")
        stage.run.front(family.assign(top1=family["top1_test"]).to_dict("records"))
        metrics = {f"top1_{name.rpartition('-')[2]}": value for name, value in zip(family["name"], family["top1_test"])}
        stage.finish(metrics | {"top1_smallest": smallest, "top1_largest": largest})


def save_figures(results: page.Results, out: Path) -> None:
    """Every figure of the page as a PNG."""
    for name, charts in page.charts(results).items():
        style.save(style.image(*charts), out / f"{name}.png")


if __name__ == "__main__":
    runner.execute(main)

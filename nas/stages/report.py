"""Stage report: the family on the test images, every figure, and one page that opens offline.

The only stage that reads the test part of the main data set, and it chooses nothing.

params   params.yaml: seed, space, runtime, evaluation, train, search.costs, search.latency_table, report
reads    the outputs of all other stages
writes   outputs/report/family.csv       the family with its test accuracy, percent
         outputs/report/trials.csv       trials per sample by cost target (Figure 8)
         outputs/report/*.png            pareto, search, predictor, accuracy, loss, sampling, transfer
         outputs/report/index.html       all of it
         outputs/report/metrics.json     {"top1_<model>", "top1_smallest", "top1_largest"}  percent, test
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import yaml
from pydantic import ConfigDict, Field

from nas.cost import flops, registry
from nas.data.dataset import open_dataset
from nas.plots import page, style
from nas.runtime import params, seeding
from nas.runtime.checkpoint import load_weights
from nas.runtime.io import read_table
from nas.sampling.factorised import trials_study
from nas.spaces import encoding
from nas.stages import fit_predictor, runner, search, split
from nas.stages import transfer as transfer_stage
from nas.stages.errors import user_errors
from nas.stages.train import Train

OUT = runner.OUTPUTS / "report"


class Report(params.Section):
    """Section `report`."""

    trial_samples: Annotated[int, Field(ge=2)]  # architectures drawn per cost target for the sampling figure


class SearchCosts(params.Section):
    """The keys of params.yaml: search that matter here."""

    model_config = ConfigDict(extra="ignore")
    costs: tuple[str, ...]
    latency_table: str


def main() -> None:
    p, trained, searched = params.read("report", Report), params.read("train", Train), params.read("search", SearchCosts)
    _, runtime, evaluation = runner.shared()
    seed, space = runner.seed(), runner.search_space()
    sections = {"seed": seed, "space": space.name, "runtime": runtime, "evaluation": evaluation, "report": p}
    with runner.stage("report", sections, trained.strategy) as (run, _):
        device = runtime.start()
        data = open_dataset(split.OUT)
        run.dataset("outputs/split/splits.parquet", "test", images=len(data.indices("test")))
        supernet = runner.new_supernet(space, len(data.classes), seed).to(device)
        load_weights(search.TRAINED / "weights.safetensors", supernet)
        test = runner.scorer(supernet, data, "test", evaluation, runtime, device, seed)
        table = flops.table(space, len(data.classes))

        family = pd.DataFrame(encoding.read_family(search.OUT / "family.json"))
        networks = [search.load_model(entry, space, len(data.classes)) for entry in family.to_dict("records")]
        family["top1_test"] = [test.top1_of(network.to(device)) for network in networks]
        smallest, largest = runner.ends(test)
        rows = encoding.to_genes([space.smallest(), space.largest()])
        known = registry.tables(space, len(data.classes), searched.model_dump())
        ends = pd.DataFrame({name: each.costs(rows) for name, each in known.items()} | {"top1_test": [smallest, largest]})
        family["latency_ms"] = [known["latency_ms"].cost(encoding.from_json(arch)) for arch in family["arch"]]
        rng = seeding.generator(seed, "report", "trials")
        trials = trials_study(table, trained.bucket_mflops, trained.pool, p.trial_samples, rng)
        found = page.Results(
            dataset=data.title,
            classes=len(data.classes),
            images=data.parts.counts(),
            space=space.name,
            architectures=space.size,
            costs=tuple(dict.fromkeys([*searched.costs, "mflops", "latency_ms"])),
            strategy=trained.strategy,
            largest_mflops=table.largest,
            family=family,
            ends=ends,
            evaluated=read_table(search.OUT / "evaluated.parquet", "dvc repro --force search"),
            predictions=read_table(fit_predictor.OUT / "predictions.parquet", "dvc repro --force fit_predictor"),
            pretrain=read_table(runner.OUTPUTS / "pretrain" / "history.csv", "dvc repro --force pretrain"),
            train=read_table(runner.OUTPUTS / "train" / "history.csv", "dvc repro --force train"),
            transfer=read_table(transfer_stage.OUT / "results.parquet", "dvc repro --force transfer"),
            trials=trials,
            params=yaml.safe_dump({k: v for k, v in params.read_all().items() if k != "tracking"}, sort_keys=False),
        )
        family.drop(columns="arch").to_csv(OUT / "family.csv", index=False)
        trials.to_csv(OUT / "trials.csv", index=False)
        images(found, OUT)
        (OUT / "index.html").write_text(page.page(found))
        for path in sorted(OUT.glob("*.png")):
            run.artifact(path, "plots")
        run.artifact(OUT / "index.html")
        run.table(family.drop(columns="arch"), "family.json")
        run.front(family.assign(top1=family["top1_test"]).to_dict("records"))
        metrics = {f"top1_{name.rpartition('-')[2]}": value for name, value in zip(family["name"], family["top1_test"])}
        runner.finish("report", metrics | {"top1_smallest": smallest, "top1_largest": largest}, run)
        run.close_pipeline()


def images(results: page.Results, out: Path) -> None:
    """Every figure of the page as a PNG."""
    for name, charts in page.charts(results).items():
        style.save(style.image(*charts), out / f"{name}.png")


if __name__ == "__main__":
    user_errors(main)

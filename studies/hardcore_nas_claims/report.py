"""Stage report of HardCoRe-NAS's claims: the verdicts by the results of its own pipeline and of the other stages, and a page.

params   studies/hardcore_nas_claims/params.yaml, pipelines/hardcore_nas/params.yaml
reads    the results of the other stages; of pipelines/hardcore_nas: latency/table.json, search/history.csv, search/metrics.json and
         tune/metrics.json (seconds), summary.json; outputs/split/metrics.json (the number of classes)
writes   report/constraint.png     expected latency over the steps of the search, percent of the target
         report/starts.png         top-1 of the networks from each start, over the target
         report/figure_8.png       top-1 over measured latency, fine-tuned and from scratch
         report/claims.csv         a row per comparison or check
         report/metrics.json       {"supported", "not_supported", "inconclusive"}: comparisons and checks of all claims
         docs/hardcore_nas.md      the claims, one by one
"""

import numpy as np
import pandas as pd

from nas.cost import latency_hardcore_nas
from nas.cost.latency_hardcore_nas import HardcoreNasLatencyTable
from nas.plots import style
from nas.runtime.io import read_json, read_table
from nas.stages import runner
from nas.stages.differentiable import TARGET_NAMES
from nas.stages.hardcore_nas import config as hardcore_nas
from studies.claims import STATISTICS, Page, verdict_counts
from studies.hardcore_nas_claims import config
from studies.hardcore_nas_claims.claims import Results, all_claims
from studies.hardcore_nas_claims.config import SCRATCH, TUNED, HardcoreNasClaimsParams

OWN = hardcore_nas.PIPELINE.outputs
SUMMARY, HISTORY = OWN / "summary.json", OWN / "search" / "history.csv"
RERUN = "dvc repro --force studies/hardcore_nas_claims/dvc.yaml"
LIMITS = (
    "Small scale: one dataset, a small space, short searches and short training. What is supported here need not be so on ImageNet, and "
    "the other way round.",
    "The claims on latency are tested on one machine.",
    "There is one one-shot model, trained with one seed: searches with other seeds differ in the images and in the networks drawn. Pairs "
    "of other targets, or of other networks, share it.",
    *STATISTICS,
)
PUBLISHED = {
    "machine": "Intel Xeon, batches of 1",
    "space": "up to 20 blocks, 12 configurations in each",
    "targets": "40, 45, 50, 55, 60 ms; Equation 27: 35, 40, 45, 50, 55 ms",
    "search": "10,000 steps",
    "one-shot model": "epochs: 300 of the largest network, 100 of all",
    "fine-tuning": "epochs: 10, 50",
    "training from scratch": "epochs: 300",
    "seeds": "not stated",
}
PAGE = Page(
    config.PIPELINE,
    "HardCoRe-NAS's claims, tested at small scale",
    "Verdicts on the claims of [HardCoRe-NAS](https://arxiv.org/abs/2102.11646) and its appendix.",
    PUBLISHED,
    LIMITS,
)


def main() -> None:
    cfg = config.read()
    own = cfg.hardcore_nas
    parameters = cfg.sections("tuning", "starts") | {"hardcore_nas.train": own.train}
    with runner.stage("report", parameters, config.PIPELINE) as stage:
        table = latency_hardcore_nas.HardcoreNasLatencyTable.load(hardcore_nas.TABLE, own.space, runner.count_classes())
        search, tune = (read_json(OWN / stage / "metrics.json") for stage in ("search", "tune"))
        results = Results(
            targets=pd.DataFrame([{"name": name, **entry} for name, entry in zip(TARGET_NAMES, read_json(SUMMARY))]),
            seconds={"shared": search["seconds_shared"], "search": search["seconds_per_target"], "tuning": tune["seconds_per_target"]},
            tuning=read_table(config.results_file("tuning"), RERUN),
            starts=read_table(config.results_file("starts"), RERUN),
            start=own.search.start,
            epochs={TUNED: own.tune.tuning.epochs, SCRATCH: own.tune.scratch.epochs},
        )
        history = read_table(HISTORY, "dvc repro -f pipelines/hardcore_nas/dvc.yaml:search")
        claims = all_claims(results)
        PAGE.write(claims, facts(cfg, table), [constraint_chart(history), starts_chart(results), tuning_chart(results)], stage)
        stage.finish(verdict_counts(claims))


def constraint_chart(history: pd.DataFrame) -> style.Chart:
    """Expected latency over the steps, as a share of the target."""
    lines = [
        style.Series(
            f"{name}: {rows['target_latency_ms'].iloc[0]:.3g} ms",
            rows["step"].to_numpy(),
            100 * (rows["latency_ms"] / rows["target_latency_ms"]).to_numpy(),
            colour,
            dash="solid",
        )
        for (name, rows), colour in zip(history.groupby("name"), _colours(history["name"].nunique()))
    ]
    steps = np.array([history["step"].min(), history["step"].max()])
    line = style.Series("target", steps, np.full(2, 100.0), style.GREY, dash="dash")
    return style.Chart("constraint", "Latency during the search", "step", "expected latency, % of the target", (*lines, line))


def starts_chart(r: Results) -> style.Chart:
    """Top-1 of the networks from each start, over the target; the band is from the lowest to the highest seed."""
    by_start = r.starts.groupby(["start", "target_latency_ms"])["top1"].agg(["mean", "min", "max"])
    values, markers = by_start.index.unique("start"), (*style.MARKERS,)
    lines = tuple(
        style.Series(
            f"{share:.0%} of the way" + (" (the fastest network)" if share == 0 else " (the pipeline's start)" if share == r.start else ""),
            by_start.loc[share].index.to_numpy(),
            by_start.loc[share, "mean"].to_numpy(),
            colour,
            markers[i % len(markers)],
            "solid",
            band=(by_start.loc[share, "min"].to_numpy(), by_start.loc[share, "max"].to_numpy()),
        )
        for i, (share, colour) in enumerate(zip(values, _colours(len(values))))
    )
    return style.Chart("starts", "Networks from each start", "target latency, ms", "top-1 fine-tuned, %", lines)


def tuning_chart(r: Results) -> style.Chart:
    """Top-1 over measured latency, a line per training; bars are one standard error, binomial in the number of images."""
    trained = r.tuning[r.tuning["epochs"] > 0].groupby(["training", "epochs"], sort=False)
    labels, markers = {TUNED: "fine-tuned", SCRATCH: "from scratch"}, (*style.MARKERS,)
    lines = []
    for i, (((training, epochs), rows), colour) in enumerate(zip(trained, _colours(len(trained)))):
        rows, name = rows.sort_values("measured_latency_ms"), f"{labels[training]}, {epochs} epoch" + "s" * (epochs > 1)
        x, top1 = rows["measured_latency_ms"].to_numpy(), rows["top1"].to_numpy()
        error = np.sqrt(top1 * (100 - top1) / rows["images"].to_numpy())
        lines.append(style.Series(name, x, top1, colour, markers[i % len(markers)], "solid", error=error))
    return style.Chart("figure_8", "Fine-tuning against training from scratch", "measured latency, ms", "top-1, %", tuple(lines))


def _colours(n: int) -> list[str]:
    return [style.CYCLE[i % len(style.CYCLE)] for i in range(n)]


def facts(cfg: HardcoreNasClaimsParams, table: HardcoreNasLatencyTable) -> dict[str, str]:
    """What was run, for the page."""
    own, setting, latency = cfg.hardcore_nas, table.setting, table.expected
    cheapest, most_expensive = latency.range_ms
    place = f"{hardcore_nas.PIPELINE.parameters}: search.targets"
    targets = sorted(target.ms(cheapest, most_expensive, place) for target in own.search.targets)
    return {
        "machine": f"{setting['device']}, {setting['backend']}, threads: {setting['threads']}, batches of {setting['batch']}",
        "space": f"{own.space.name}: up to {sum(stage.depths[-1] for stage in own.space.stages)} blocks, "
        f"{len(own.space.configurations)} configurations in each",
        "targets": f"{', '.join(f'{ms:.3g}' for ms in targets)} ms; the range of the table is {cheapest:.3g} to {most_expensive:.3g} ms",
        "search": f"{own.search.steps:,} steps, from the maximum-entropy point within {own.search.start:.0%} of the way to the target",
        "one-shot model": f"epochs: {own.train.largest.epochs} of the largest network, {own.train.multi_path.epochs} of all",
        "fine-tuning": f"epochs: {_listed(cfg.tuning.epochs)}, of networks {_listed(cfg.tuning.targets)}; {own.tune.tuning.epochs} in "
        "stage `starts`",
        "training from scratch": f"epochs: {cfg.tuning.scratch}",
        "seeds": f"starts {_listed(cfg.starts.seeds)}; otherwise {own.seed}",
    }


def _listed(values: tuple) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    runner.execute(main)

"""Stage report of HardCoRe-NAS's claims: each judged by the figures of HardCoRe-NAS's own stages and of the others here; a page.

params   studies/hardcore_nas_claims/params.yaml, pipelines/hardcore_nas/params.yaml
reads    the results of the other stages; of pipelines/hardcore_nas: latency/table.json, search/history.csv, search/metrics.json and
         tune/metrics.json (seconds), summary.json; outputs/split/metrics.json (the number of classes)
writes   report/constraint.png     expected latency over the steps of the search, of the target
         report/starts.png         top-1 of what is found from each start, over the target
         report/figure_8.png       top-1 over measured latency, fine-tuned and from fresh weights
         report/claims.csv         a row a comparison or check
         report/metrics.json       {"holds", "does_not_hold", "cannot_be_told"}: comparisons and checks of all claims
         docs/hardcore_nas.md      the claims, one by one
"""

from pathlib import Path

import numpy as np
import pandas as pd

from nas.cost import latency_hardcore_nas
from nas.cost.latency_hardcore_nas import HardcoreNasLatencyTable
from nas.plots import style
from nas.runtime.io import read_json, read_table
from nas.stages import runner
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config as hardcore_nas
from nas.stages.pipelines import NAMES
from studies.claims import Page
from studies.hardcore_nas_claims import config, starts, tuning
from studies.hardcore_nas_claims.claims import Results, judge
from studies.hardcore_nas_claims.tuning import FRESH, TUNED

OWN = hardcore_nas.PIPELINE.outputs
SUMMARY, HISTORY = OWN / "summary.json", OWN / "search" / "history.csv"
AGAIN = "dvc repro --force studies/hardcore_nas_claims/dvc.yaml"
LIMITS = (
    "Small scale: one data set, a small space, short searches and short training. What holds here need not hold on ImageNet, nor the other "
    "way round.",
    "The claims on latency are those of one machine.",
    "There is one one-shot model, trained with one seed: searches with other seeds differ in the images and in the networks drawn. Pairs "
    "of other targets, or of other networks, share it.",
)
PAPER = {
    "machine": "Intel Xeon, batches of 1",
    "space": "up to 20 blocks, 12 configurations in each",
    "targets": "40, 45, 50, 55, 60 ms; Equation 27: 35, 40, 45, 50, 55 ms",
    "search": "10,000 steps",
    "one-shot model": "epochs: 300 of the largest network, 100 of all",
    "fine-tuning": "epochs: 10, 50",
    "training from fresh weights": "epochs: 300",
    "seeds": "not said",
}
PAGE = Page(
    Path("docs/hardcore_nas.md"),
    config.PIPELINE,
    "HardCoRe-NAS's claims, tested at small scale",
    "Which claims of [HardCoRe-NAS](https://arxiv.org/abs/2102.11646) and its appendix hold in this project.",
    PAPER,
    LIMITS,
)


def main() -> None:
    s = config.read()
    own = s.hardcore_nas
    parameters = s.sections("tuning", "starts") | {"hardcore_nas.train": own.train}
    with config.PIPELINE.stage("report", parameters) as (run, _, out):
        measured = latency_hardcore_nas.HardcoreNasLatencyTable.load(hardcore_nas.TABLE, own.space, runner.count_classes())
        search, tune = (read_json(OWN / stage / "metrics.json") for stage in ("search", "tune"))
        found = Results(
            targets=pd.DataFrame([{"name": name, **entry} for name, entry in zip(NAMES, read_json(SUMMARY))]),
            seconds={"shared": search["seconds_shared"], "search": search["seconds_a_target"], "tuning": tune["seconds_a_target"]},
            tuning=read_table(tuning.RESULTS, AGAIN),
            starts=read_table(starts.RESULTS, AGAIN),
            start=own.search.start,
            epochs={TUNED: own.tune.tuning.epochs, FRESH: own.tune.scratch.epochs},
        )
        history = read_table(HISTORY, "dvc repro -f pipelines/hardcore_nas/dvc.yaml:search")
        PAGE.write(judge(found), facts(s, measured), [constraint(history), of_starts(found), figure_8(found)], run, out)


def constraint(history: pd.DataFrame) -> style.Chart:
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


def of_starts(r: Results) -> style.Chart:
    """Top-1 of what is found from each start, over the target; the band is from the lowest to the highest seed."""
    by = r.starts.groupby(["start", "target_latency_ms"])["top1"].agg(["mean", "min", "max"])
    values, markers = by.index.unique("start"), (*style.MARKERS,)
    lines = tuple(
        style.Series(
            f"{share:.0%} of the way" + (" (the fastest network)" if share == 0 else " (HardCoRe-NAS's here)" if share == r.start else ""),
            by.loc[share].index.to_numpy(),
            by.loc[share, "mean"].to_numpy(),
            colour,
            markers[i % len(markers)],
            "solid",
            band=(by.loc[share, "min"].to_numpy(), by.loc[share, "max"].to_numpy()),
        )
        for i, (share, colour) in enumerate(zip(values, _colours(len(values))))
    )
    return style.Chart("starts", "Networks found from each start", "target latency, ms", "top-1 fine-tuned, %", lines)


def figure_8(r: Results) -> style.Chart:
    """Top-1 over measured latency, a line a training; bars are a standard error of counting the images, up and down."""
    trained = r.tuning[r.tuning["epochs"] > 0].groupby(["training", "epochs"], sort=False)
    words, markers = {TUNED: "fine-tuned", FRESH: "from fresh weights"}, (*style.MARKERS,)
    lines = []
    for i, (((training, epochs), rows), colour) in enumerate(zip(trained, _colours(len(trained)))):
        rows, name = rows.sort_values("measured_latency_ms"), f"{words[training]}, {epochs} epoch" + "s" * (epochs > 1)
        x, top1 = rows["measured_latency_ms"].to_numpy(), rows["top1"].to_numpy()
        error = np.sqrt(top1 * (100 - top1) / rows["images"].to_numpy())
        lines.append(style.Series(name, x, top1, colour, markers[i % len(markers)], "solid", error=error))
    return style.Chart("figure_8", "Fine-tuning against training from fresh weights", "measured latency, ms", "top-1, %", tuple(lines))


def _colours(n: int) -> list[str]:
    return [style.CYCLE[i % len(style.CYCLE)] for i in range(n)]


def facts(s: config.Settings, measured: HardcoreNasLatencyTable) -> dict[str, str]:
    """What was run, for the page."""
    p, setting, latency = s.hardcore_nas, measured.setting, measured.expected
    cheapest, most_expensive = latency.range_ms
    place = f"{hardcore_nas.PIPELINE.parameters}: search.targets"
    targets = sorted(target.ms(cheapest, most_expensive, place) for target in p.search.targets)
    return {
        "machine": f"{setting['device']}, {setting['backend']}, threads: {setting['threads']}, batches of {setting['batch']}",
        "space": f"{p.space.name}: up to {sum(stage.depths[-1] for stage in p.space.stages)} blocks, "
        f"{len(p.space.configurations)} configurations in each",
        "targets": f"{', '.join(f'{ms:.3g}' for ms in targets)} ms; the table has networks of {cheapest:.3g} to {most_expensive:.3g} ms",
        "search": f"{p.search.steps:,} steps, from the most even point within {p.search.start:.0%} of the way to the target",
        "one-shot model": f"epochs: {p.train.largest.epochs} of the largest network, {p.train.multi_path.epochs} of all",
        "fine-tuning": f"epochs: {_listed(s.tuning.epochs)}, of networks {_listed(s.tuning.targets)}; {p.tune.tuning.epochs} in stage "
        "`starts`",
        "training from fresh weights": f"epochs: {s.tuning.scratch}",
        "seeds": f"starts {_listed(s.starts.seeds)}; else {p.seed}",
    }


def _listed(values: tuple) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    user_errors(main)

"""Stage report of TF-NAS's claims: each judged by the figures of the other stages, and a page.

params   studies/tf_nas_claims/params.yaml, pipelines/tf_nas/params.yaml
reads    the results of the other stages; of pipelines/tf_nas: latency/table.json, search/searched.json, summary.json;
         outputs/split/metrics.json (the number of classes)
writes   report/trade_off.png      table latency over lambda, with and without elasticity scaling
         report/collapse.png       share of layers with the same operation, a seed
         report/claims.csv         a row a comparison or check
         report/metrics.json       {"holds", "does_not_hold", "cannot_be_told"}: comparisons and checks of all claims
         docs/tf_nas.md            the claims, one by one
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nas.cost import latency_tf_nas
from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.plots import style
from nas.runtime.io import read_json, read_table
from nas.stages import runner
from nas.stages.errors import user_errors
from nas.stages.tf_nas import config as tf_nas
from nas.stages.tf_nas.derive import SEARCHED, chosen
from studies.claims import Page
from studies.tf_nas_claims import collapse, config, devices, stopping, trade_off
from studies.tf_nas_claims.claims import Results, judge

SUMMARY = tf_nas.PIPELINE.outputs / "summary.json"
AGAIN = "dvc repro --force studies/tf_nas_claims/dvc.yaml"
ASIDE = 0.04  # seeds; points of the same share stand side by side
LIMITS = (
    "Small scale: one data set, a small space, short searches and short training. What holds here need not hold on ImageNet, nor the other "
    "way round.",
    "The claims on latency are those of one machine, whose second device is the same processor with another number of threads: the two are "
    "more alike than the supplement's GPU and CPU.",
    "Table latencies are sums, without noise for a given table; but the same search with another seed finds another network. Where pairs "
    "share a seed, they tell of that seed.",
)
PAPER = {
    "machine": "GPU: Titan RTX; CPU: Xeon Gold 6130, one thread, batches of 1",
    "space": "18 layers, 8 operations in each",
    "target of the experiments": "15 ms",
    "search": "90 epochs, the first 10 of weights alone; 100 of 1,000 classes",
    "early stopping": "75% of the layers keep their order of operations for 5 epochs",
    "training of a derived network": "epochs: 250",
    "seeds": "Figure 3: 5; else not said",
}
PAGE = Page(
    Path("docs/tf_nas.md"),
    config.PIPELINE,
    "TF-NAS's claims, tested at small scale",
    "Which claims of [TF-NAS](https://arxiv.org/abs/2008.05314) and its supplement hold in this project.",
    PAPER,
    LIMITS,
)


def main() -> None:
    s = config.read()
    names = ("trade_off", "collapse", "devices", "stopping")
    with config.PIPELINE.stage("report", s.sections(*names)) as (run, _, out):
        space = s.tf_nas.space
        table = latency_tf_nas.TfNasLatencyTable.load(tf_nas.TABLE, space, runner.count_classes())
        found = Results(
            targets=own_networks(table),
            **{stage.__name__.rpartition(".")[2]: read_table(stage.RESULTS, AGAIN) for stage in (trade_off, collapse, devices, stopping)},
            layers=len(space.layers),
            operations=len(space.operations),
        )
        PAGE.write(judge(found), facts(s, table, found), charts(found), run, out)


def own_networks(table: TfNasLatencyTable) -> pd.DataFrame:
    """TF-NAS's networks: name, `common.reached`, measured_latency_ms, noise_floor."""
    pairs = zip(read_json(SEARCHED), read_json(SUMMARY), strict=True)
    return pd.DataFrame(
        [
            {"name": entry["name"], **config.reached(table, chosen(entry), entry["target_latency_ms"])}
            | {key: told[key] for key in ("measured_latency_ms", "noise_floor")}
            for entry, told in pairs
        ]
    )


def charts(r: Results) -> list[style.Chart]:
    """The figures of the page."""
    off = r.trade_off.groupby(["scaled", "trade_off"])["table_latency_ms"].agg(["mean", "min", "max"])
    looks = ((True, "with elasticity scaling", style.BLUE, "circle"), (False, "without", style.ORANGE, "square"))
    values, target = np.sort(r.trade_off["trade_off"].unique()), r.trade_off["target_latency_ms"].iloc[0]
    lines = [
        style.Series(name, values, rows["mean"].to_numpy(), colour, marker, "solid", band=(rows["min"].to_numpy(), rows["max"].to_numpy()))
        for scaled, name, colour, marker in looks
        for rows in [off.loc[scaled]]
    ]
    line = style.Series("target", values, np.full(len(values), target), style.GREY, dash="dash")
    shares = r.collapse.assign(same=100 * r.collapse["same_operation"]).pivot(index="seed", columns="bi_sampling", values="same")
    ways = ((True, "bi-sampling", style.BLUE, "circle", -ASIDE), (False, "one path a step", style.ORANGE, "square", ASIDE))
    points = tuple(style.Series(name, shares.index.to_numpy() + x, shares[way].to_numpy(), c, marker) for way, name, c, marker, x in ways)
    return [
        style.Chart(
            "trade_off",
            "Latency reached over lambda",
            "lambda",
            "latency by the table, ms",
            (*lines, line),
            log_x=True,
            marks=tuple((float(v), f"{v:g}") for v in values),
        ),
        style.Chart(
            "collapse",
            "Layers with the same operation",
            "seed",
            "% of the layers",
            points,
            marks=tuple((float(seed), str(seed)) for seed in shares.index),
        ),
    ]


def facts(s: config.Settings, table: TfNasLatencyTable, r: Results) -> dict[str, str]:
    """What was run, for the page."""
    p, method, setting = s.tf_nas, s.tf_nas.search.method, table.setting
    classes = f"{p.search.classes.number} of {table.classes}" if p.search.classes else f"all {table.classes}"
    space = p.space
    return {
        "machine": f"{setting['device']}, {setting['backend']}, threads: {setting['threads']}, batches of {setting['batch']}",
        "second device": f"the same with {s.devices.threads} threads",
        "space": f"{space.name}: up to {len(space.layers)} layers, {len(space.operations)} operations in each",
        "target of the experiments": f"{r.trade_off['target_latency_ms'].iloc[0]:.3g} ms; networks of the space take "
        + " to ".join(f"{ms:.3g}" for ms in table.range_ms)
        + " ms by the table",
        "search": f"{method.epochs} epochs, the first {method.weight_epochs} of weights alone; {classes} classes",
        "early stopping": f"{s.stopping.early_stopping.layers:.0%} of the layers keep their order of operations for "
        f"{s.stopping.early_stopping.epochs} epochs",
        "training of a derived network": f"epochs: {p.train.how.epochs}",
        "seeds": f"trade_off {_listed(s.trade_off.seeds)}; collapse {_listed(s.collapse.seeds)}; stopping {_listed(s.stopping.seeds)}",
    }


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    user_errors(main)

"""Stage report of TF-NAS's claims: the verdicts by the results of the other stages, and a page.

params   studies/tf_nas_claims/params.yaml, pipelines/tf_nas/params.yaml
reads    the results of the other stages; of pipelines/tf_nas: latency/table.json, search/searched.json, summary.json;
         outputs/split/metrics.json (the number of classes)
writes   report/trade_off.png      table latency over lambda, with and without elasticity scaling
         report/collapse.png       share of layers with the same operation, per seed
         report/claims.csv         a row per comparison or check
         report/metrics.json       {"supported", "not_supported", "inconclusive"}: comparisons and checks of all claims
         docs/tf_nas.md            the claims, one by one
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nas.cost import latency_tf_nas
from nas.cost.latency_tf_nas import TfNasLatencyTable
from nas.plots import style
from nas.runtime.io import read_json, read_table
from nas.stages import runner
from nas.stages.tf_nas import config as tf_nas
from nas.stages.tf_nas.config import SEARCHED
from nas.stages.tf_nas.config import read_arch as chosen
from studies.claims import STATISTICS, Page, verdict_counts
from studies.tf_nas_claims import config
from studies.tf_nas_claims.claims import Results, all_claims
from studies.tf_nas_claims.config import TfNasClaimsParams

SUMMARY = tf_nas.PIPELINE.outputs / "summary.json"
RERUN = "dvc repro --force studies/tf_nas_claims/dvc.yaml"
OFFSET_SEEDS = 0.04  # between points of the same seed
LIMITS = (
    "Small scale: one dataset, a small space, short searches and short training. What is supported here need not be so on ImageNet, and "
    "the other way round.",
    "The claims on latency are tested on one machine, whose second device is the same processor with another number of threads: the two "
    "are more similar than the supplement's GPU and CPU.",
    "Table latencies are sums, without noise for a given table; but the same search with another seed finds another network. Pairs that "
    "share a seed are evidence for that seed only.",
    *STATISTICS,
)
PUBLISHED = {
    "machine": "GPU: Titan RTX; CPU: Xeon Gold 6130, one thread, batches of 1",
    "space": "18 layers, 8 operations in each",
    "target of the experiments": "15 ms",
    "search": "90 epochs, the first 10 weights-only; 100 of 1,000 classes",
    "early stopping": "75% of the layers keep their order of operations for 5 epochs",
    "training of a derived network": "epochs: 250",
    "seeds": "Figure 3: 5; otherwise not stated",
}
PAGE = Page(
    config.PIPELINE,
    "TF-NAS's claims, tested at small scale",
    "Verdicts on the claims of [TF-NAS](https://arxiv.org/abs/2008.05314) and its supplement.",
    PUBLISHED,
    LIMITS,
)


def main() -> None:
    cfg = config.read()
    names = ("trade_off", "collapse", "devices", "stopping")
    with runner.stage("report", cfg.sections(*names), config.PIPELINE) as stage:
        space = cfg.tf_nas.space
        table = latency_tf_nas.TfNasLatencyTable.load(tf_nas.TABLE, space, runner.count_classes())
        results = Results(
            targets=own_networks(table),
            **{stage: read_table(config.results_file(stage), RERUN) for stage in names},
            layers=len(space.layers),
            operations=len(space.operations),
        )
        claims = all_claims(results)
        PAGE.write(claims, facts(cfg, table, results), charts(results), stage)
        stage.finish(verdict_counts(claims))


def own_networks(table: TfNasLatencyTable) -> pd.DataFrame:
    """TF-NAS's networks: name, `config.reached`, measured_latency_ms, noise_floor."""
    pairs = zip(read_json(SEARCHED), read_json(SUMMARY), strict=True)
    return pd.DataFrame(
        [
            {"name": entry["name"], **config.reached(table, chosen(entry), entry["target_latency_ms"])}
            | {key: measured[key] for key in ("measured_latency_ms", "noise_floor")}
            for entry, measured in pairs
        ]
    )


def charts(r: Results) -> list[style.Chart]:
    """The figures of the page."""
    latencies = r.trade_off.groupby(["scaled", "trade_off"])["table_latency_ms"].agg(["mean", "min", "max"])
    styles = ((True, "with elasticity scaling", style.BLUE, "circle"), (False, "without", style.ORANGE, "square"))
    values, target = np.sort(r.trade_off["trade_off"].unique()), r.trade_off["target_latency_ms"].iloc[0]
    lines = [
        style.Series(name, values, rows["mean"].to_numpy(), colour, marker, "solid", band=(rows["min"].to_numpy(), rows["max"].to_numpy()))
        for scaled, name, colour, marker in styles
        for rows in [latencies.loc[scaled]]
    ]
    line = style.Series("target", values, np.full(len(values), target), style.GREY, dash="dash")
    shares = r.collapse.assign(same=100 * r.collapse["same_operation"]).pivot(index="seed", columns="bi_sampling", values="same")
    samplings = (
        (True, "bi-sampling", style.BLUE, "circle", -OFFSET_SEEDS),
        (False, "one path per step", style.ORANGE, "square", OFFSET_SEEDS),
    )
    points = tuple(
        style.Series(name, shares.index.to_numpy() + x, shares[both].to_numpy(), c, marker) for both, name, c, marker, x in samplings
    )
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


def facts(cfg: TfNasClaimsParams, table: TfNasLatencyTable, r: Results) -> dict[str, str]:
    """What was run, for the page."""
    own, method, setting = cfg.tf_nas, cfg.tf_nas.search.method, table.setting
    classes = f"{own.search.classes.number} of {table.classes}" if own.search.classes else f"all {table.classes}"
    space = own.space
    return {
        "machine": f"{setting['device']}, {setting['backend']}, threads: {setting['threads']}, batches of {setting['batch']}",
        "second device": f"the same with {cfg.devices.threads} threads",
        "space": f"{space.name}: up to {len(space.layers)} layers, {len(space.operations)} operations in each",
        "target of the experiments": f"{r.trade_off['target_latency_ms'].iloc[0]:.3g} ms; the range of the table is "
        + " to ".join(f"{ms:.3g}" for ms in table.range_ms)
        + " ms",
        "search": f"{method.epochs} epochs, the first {method.weight_epochs} weights-only; {classes} classes",
        "early stopping": f"{cfg.stopping.early_stopping.layers:.0%} of the layers keep their order of operations for "
        f"{cfg.stopping.early_stopping.epochs} epochs",
        "training of a derived network": f"epochs: {own.train.optimisation.epochs}",
        "seeds": f"trade_off {_listed(cfg.trade_off.seeds)}; collapse {_listed(cfg.collapse.seeds)}; "
        f"stopping {_listed(cfg.stopping.seeds)}",
    }


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


if __name__ == "__main__":
    runner.execute(main)

"""Figures of the comparison with the tables behind them; frames and edges are those of `comparisons`.

Figures 5, 6 and 9 of AttentiveNAS (arXiv:2011.09011), Figures 9 and 10 of AlphaNet's supplement (arXiv:2102.07954), fronts, and
inherited weights against training from scratch. The papers show one run each; here bars and lines show the seeds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from nas.evaluation.metrics import best_front, hypervolume
from nas.plots.style import BLUE, CYCLE, GREEN, GREY, INK, ORANGE, PURPLE, Box, BoxChart, Chart, Series, wide
from studies.strategies.comparisons import Ablation, bucket_numbers, figures_of, runs_of

COST, TOP1 = "cost, MFLOPs", "top-1 accuracy, %"
QUANTILES = ("minimum", "first_quartile", "median", "third_quartile", "maximum")
ACCURACIES = ["top1_inherited", "top1_scratch", "difference"]
STYLES = {  # colour, marker; BestUp in cool colours, WorstUp in warm ones, a marker per estimator
    "uniform": (INK, "circle"),
    "bestup-3-loss": (BLUE, "circle"),
    "worstup-3-loss": (ORANGE, "circle"),
    "bestup-50-acc": ("#56B4E9", "square"),
    "worstup-50-acc": ("#E69F00", "square"),
    "bestup-1m-acc": (GREEN, "diamond"),
    "worstup-1m-acc": ("#8C510A", "diamond"),
    "bestup-3-loss-flat": (PURPLE, "triangle-up"),
}


def styles(strategies: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by strategy, in the order of first appearance."""
    names = list(dict.fromkeys(strategies))
    return {name: STYLES.get(name, (CYCLE[i % len(CYCLE)], "circle")) for i, name in enumerate(names)}


def bucket_names(edges: Sequence[float]) -> list[str]:
    """Names of the buckets with two decimals, or none for hundreds of MFLOPs: ["0.10–0.35", ...]."""
    digits = 2 if edges[-1] < 20 else 0
    return [f"{low:.{digits}f}–{high:.{digits}f}" for low, high in pairwise(edges)]


def _grid(runs: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """A row per run and bucket, runs in the order of the frame: columns strategy, seed, bucket, low, high."""
    edges = np.asarray(edges, dtype=np.float64)
    buckets = pd.DataFrame({"bucket": np.arange(len(edges) - 1), "low": edges[:-1], "high": edges[1:]})
    return runs[["strategy", "seed"]].drop_duplicates().merge(buckets, how="cross")


def box_quantiles(runs: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Figure 5, a row per bucket, strategy and seed: columns bucket, low, high (MFLOPs), strategy, seed, n and the five QUANTILES.

    They are of the architectures of round 0, and NaN in an empty bucket.
    """
    common = runs[runs["round"] == 0]
    groups = common.assign(bucket=bucket_numbers(common["mflops"], edges)).groupby(["strategy", "seed", "bucket"])["top1"]
    levels = groups.quantile([0, 0.25, 0.5, 0.75, 1]).unstack().set_axis(QUANTILES, axis=1)
    out = _grid(runs, edges).merge(levels.assign(n=groups.size()).reset_index(), how="left", on=["strategy", "seed", "bucket"])
    out["n"] = out["n"].fillna(0).astype(int)
    return out[["bucket", "low", "high", "strategy", "seed", "n", *QUANTILES]].sort_values("bucket", kind="stable", ignore_index=True)


def mean_quantiles(quantiles: pd.DataFrame) -> pd.DataFrame:
    """`box_quantiles` averaged over the seeds that have a value: columns bucket, low, high, strategy, seeds, QUANTILES."""
    groups = quantiles.groupby(["bucket", "low", "high", "strategy"], sort=False)
    return groups[list(QUANTILES)].mean().assign(seeds=groups["median"].count()).reset_index()


def box_charts(runs: pd.DataFrame, edges: Sequence[float], baseline: str = "uniform") -> tuple[BoxChart, ...]:
    """Figure 5, a chart per bucket with its own scale, a row per strategy; a thin line at the baseline's median."""
    means = mean_quantiles(box_quantiles(runs, edges))
    style, charts = styles(means["strategy"]), []
    for bucket, name in enumerate(bucket_names(edges)):
        rows = means[means["bucket"] == bucket]
        boxes = tuple(Box(r.strategy, tuple(float(getattr(r, q)) for q in QUANTILES), style[r.strategy][0]) for r in rows.itertuples())
        median = rows.loc[rows["strategy"] == baseline, "median"].dropna()
        reference = float(median.iloc[0]) if len(median) else None
        charts.append(BoxChart(f"boxes-{bucket}", f"{name} MFLOPs", TOP1, boxes, reference))
    return tuple(charts)


def loss_charts(losses: Ablation, edges: Sequence[float], figure: str) -> tuple[BoxChart, ...]:
    """AlphaNet's Figure 9 or 10: a chart per bucket, a row per loss, a colour per setting; a thin line at the base's median.

    Args:
        losses: the runs.
        edges: of the buckets.
        figure: one of `figures_of`.
    """
    colours = {losses.base: BLUE} | {name: CYCLE[1 + i % (len(CYCLE) - 1)] for i, s in enumerate(losses.settings) for name in s.others}
    charts = box_charts(runs_of(losses, figures_of(losses)[figure]), edges, losses.base)
    return tuple(
        replace(chart, key=f"{figure}-{i}", boxes=tuple(replace(b, colour=colours.get(b.name, INK)) for b in chart.boxes))
        for i, chart in enumerate(charts)
    )


def gains(runs: pd.DataFrame, edges: Sequence[float], baseline: str = "uniform") -> pd.DataFrame:
    """Figure 6, a row per bucket, strategy and seed: columns bucket, low, high (MFLOPs), strategy, seed, top1 and gain.

    top1 is the best of everything evaluated in the bucket, gain that minus the baseline's of the same seed
    (percentage points). Both are NaN in an empty bucket.

    Raises:
        ValueError: if a seed has no run of the baseline.
    """
    if missing := sorted(set(runs["seed"]) - set(runs.loc[runs["strategy"] == baseline, "seed"])):
        raise ValueError(f"seed {missing[0]} has no run of {baseline!r}, which the others are compared with")
    best = runs.assign(bucket=bucket_numbers(runs["mflops"], edges)).groupby(["strategy", "seed", "bucket"])["top1"].max().reset_index()
    out = _grid(runs, edges).merge(best, how="left", on=["strategy", "seed", "bucket"])
    base = out.loc[out["strategy"] == baseline, ["seed", "bucket", "top1"]]
    out = out.merge(base, how="left", on=["seed", "bucket"], suffixes=("", "_baseline"))
    out["gain"] = out["top1"] - out["top1_baseline"]
    columns = ["bucket", "low", "high", "strategy", "seed", "top1", "gain"]
    return out[columns].sort_values("bucket", kind="stable", ignore_index=True)


def mean_gains(gain_rows: pd.DataFrame) -> pd.DataFrame:
    """`gains` over seeds: columns bucket, low, high, strategy, seeds, top1, gain (means), gain_sd (sample deviation).

    seeds counts those with a gain; gain_sd is NaN for fewer than two.
    """
    groups = gain_rows.groupby(["bucket", "low", "high", "strategy"], sort=False)
    out = groups[["top1", "gain"]].mean().assign(gain_sd=groups["gain"].std(ddof=1), seeds=groups["gain"].count())
    return out.reset_index()[["bucket", "low", "high", "strategy", "seeds", "top1", "gain", "gain_sd"]]


def gain_chart(runs: pd.DataFrame, edges: Sequence[float], baseline: str = "uniform") -> Chart:
    """Figure 6: mean gain over the baseline with a standard deviation over seeds; strategies side by side within a bucket."""
    means = mean_gains(gains(runs, edges, baseline))
    style, names = styles(means["strategy"]), bucket_names(edges)
    others = [s for s in style if s != baseline]
    shifts = np.linspace(-0.3, 0.3, len(others)) if len(others) > 1 else [0.0]
    series = [Series(baseline, np.array([-0.5, len(names) - 0.5]), np.zeros(2), GREY, dash="dash")]
    for strategy, shift in zip(others, shifts):
        rows = means[means["strategy"] == strategy]
        colour, marker = style[strategy]
        x, error = rows["bucket"].to_numpy() + shift, rows["gain_sd"].to_numpy()
        series.append(Series(strategy, x, rows["gain"].to_numpy(), colour, marker, error=error))
    title = f"Gain of the best evaluated network over {baseline} (mean ± sd over seeds)"
    return Chart("gains", title, COST, "gain in top-1, percentage points", tuple(series), marks=tuple(enumerate(names)), broad=True)


def fronts(runs: pd.DataFrame, by: str = "strategy") -> pd.DataFrame:
    """The best Pareto front of each run: the columns `by`, seed, mflops, top1, and round if there is one; cost ascending.

    Args:
        runs: everything evaluated.
        by: the column that identifies a run with its seed, "strategy" or "space".
    """
    columns = [c for c in (by, "seed", "mflops", "top1", "round") if c in runs]
    groups = (rows for _, rows in runs.groupby([by, "seed"], sort=False))
    return pd.concat([g.iloc[best_front(g["mflops"].to_numpy(), g["top1"].to_numpy())][columns] for g in groups], ignore_index=True)


def front_charts(runs: pd.DataFrame, baseline: str = "uniform") -> tuple[Chart, ...]:
    """A chart per strategy: its fronts, a line per seed, over those of the baseline.

    The average of fronts is not defined, and no training reached a front over all seeds.
    """
    rows, log = fronts(runs), wide(runs["mflops"].to_numpy())
    style = styles(rows["strategy"])
    base = rows[rows["strategy"] == baseline]
    if base.empty:
        raise ValueError(f"no run of {baseline!r}, which the others are compared with; there are {list(style)}")
    charts = []
    for strategy, (colour, _) in style.items():
        if strategy != baseline:
            own = rows[rows["strategy"] == strategy]
            series = Series(baseline, *lines(base), GREY, dash="solid"), Series(strategy, *lines(own), colour, dash="solid")
            charts.append(Chart(f"fronts-{strategy}", strategy, COST, TOP1, series, log_x=log))
    return tuple(charts)


def lines(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the fronts of several seeds as one series: a NaN between two seeds interrupts the line.

    Args:
        rows: columns seed, mflops, top1; those of a seed cost ascending.
    """
    gap = pd.DataFrame({"mflops": [np.nan], "top1": [np.nan]})
    joined = pd.concat([p for _, own in rows.groupby("seed") for p in (own[["mflops", "top1"]], gap)][:-1])
    return joined["mflops"].to_numpy(), joined["top1"].to_numpy()


def space_hypervolumes(runs: pd.DataFrame, reference_mflops: float, chance: float) -> pd.DataFrame:
    """A row per space and seed: columns space, seed, evaluations, hypervolume (in [0, 1]).

    Args:
        runs: columns space, seed, mflops, top1: everything evaluated.
        reference_mflops: common to the spaces, so that areas can be compared: the larger of the two largest networks' costs.
        chance: top-1 of guessing, percent.
    """
    rows = []
    for (name, seed), own in runs.groupby(["space", "seed"], sort=False):
        area = hypervolume(own["mflops"].to_numpy(), own["top1"].to_numpy(), reference_mflops, chance)
        rows.append((name, seed, len(own), area))
    return pd.DataFrame(rows, columns=["space", "seed", "evaluations", "hypervolume"])


def space_chart(runs: pd.DataFrame) -> Chart:
    """Figure 9: the fronts of two search spaces, a colour per space, a line per seed; `runs` as in `space_hypervolumes`."""
    rows = fronts(runs, "space")
    series = tuple(
        Series(name, *lines(rows[rows["space"] == name]), CYCLE[i % len(CYCLE)], dash="solid")
        for i, name in enumerate(rows["space"].unique())
    )
    log = wide(np.asarray(rows["mflops"]))
    return Chart("spaces", "Two search spaces, a line per seed", COST, TOP1, series, log_x=log)


def inherited_differences(models: pd.DataFrame) -> pd.DataFrame:
    """Inherited weights against training from scratch, per model: the rows by seed, cheapest first, with a column `difference`.

    Args:
        models: columns seed, model, mflops, top1_inherited, top1_scratch (percent, test images).
    """
    out = models[["seed", "model", "mflops", "top1_inherited", "top1_scratch"]].sort_values(["seed", "mflops"], ignore_index=True)
    return out.assign(difference=out["top1_inherited"] - out["top1_scratch"])


def inherited_summary(models: pd.DataFrame) -> pd.DataFrame:
    """Over seeds: a row per model and one named 'all', of the means over a seed's models.

    Columns model, seeds, mflops, and for top1_inherited, top1_scratch and difference the mean and the sample
    deviation over seeds (`difference_sd`, ...; NaN for one seed).
    """
    rows = inherited_differences(models)
    order = rows.groupby("model")["mflops"].mean().sort_values().index
    overall = rows.groupby("seed")[["mflops", *ACCURACIES]].mean().reset_index().assign(model="all")
    groups = pd.concat([rows, overall]).groupby("model")
    means, deviations = groups[["mflops", *ACCURACIES]].mean(), groups[ACCURACIES].std(ddof=1).add_suffix("_sd")
    out = means.join(deviations).assign(seeds=groups["seed"].nunique()).loc[[*order, "all"]].rename_axis("model").reset_index()
    return out[["model", "seeds", "mflops", *(c for name in ACCURACIES for c in (name, f"{name}_sd"))]]


def inherited_charts(models: pd.DataFrame) -> tuple[Chart, Chart]:
    """Both accuracies of each network of each seed against its cost, joined by a line; and their differences."""
    rows = inherited_differences(models)
    mflops, inherited, scratch = (rows[c].to_numpy() for c in ("mflops", "top1_inherited", "top1_scratch"))
    gap = np.full(len(rows), np.nan)  # interrupts the line between two networks
    accuracies = (
        Series("the same network", np.ravel([mflops, mflops, gap], "F"), np.ravel([inherited, scratch, gap], "F"), GREY, dash="solid"),
        Series("inherited from the supernet", mflops, inherited, BLUE, "circle"),
        Series("trained from scratch", mflops, scratch, ORANGE, "square"),
    )
    ends, mean = np.array([mflops.min(), mflops.max()]), float(inherited_summary(models)["difference"].iloc[-1])
    differences = (
        Series("no difference", ends, np.zeros(2), GREY, dash="dash"),
        Series(f"mean over seeds, {mean:+.2f}", ends, np.full(2, mean), BLUE, dash="dot"),
        Series("a network", mflops, rows["difference"].to_numpy(), BLUE, "circle"),
    )
    title, log = "Inherited weights and training from scratch", wide(mflops)
    return (
        Chart("inherited", title, COST, "top-1 on test images, %", accuracies, log_x=log),
        Chart("inherited-gain", "Inherited minus from scratch", COST, "top-1, percentage points", differences, log_x=log),
    )

"""Sampling strategies side by side, per bucket of cost (AttentiveNAS, Figures 5 and 6).

Figure 5: the spread of accuracies of architectures that are the same for all strategies. Figure 6:
the best that was found in a bucket, above what uniform sampling found there with the same seed; the
paper shows one run each, here there is a spread over seeds.

Everywhere `runs` is a frame with the columns strategy, seed, mflops, top1 (percent), round (0: the
common architectures, 1 and more: found by the search), and `edges` are b + 1 ascending costs, MFLOPs.
A bucket holds its lower edge and not its upper one; what lies outside counts to the end buckets.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from nas.evaluation.metrics import best_front
from nas.plots.style import BLUE, CYCLE, GREEN, GREY, INK, ORANGE, PURPLE, Box, BoxChart, Chart, Series, wide

NUMBERS = ("minimum", "first_quartile", "median", "third_quartile", "maximum")
LOOKS = {  # colour, marker; BestUp in cool colours, WorstUp in warm ones, a marker an estimator
    "uniform": (INK, "circle"),
    "bestup-3-loss": (BLUE, "circle"),
    "worstup-3-loss": (ORANGE, "circle"),
    "bestup-50-acc": ("#56B4E9", "square"),
    "worstup-50-acc": ("#E69F00", "square"),
    "bestup-1m-acc": (GREEN, "diamond"),
    "worstup-1m-acc": ("#8C510A", "diamond"),
    "bestup-3-loss-flat": (PURPLE, "triangle-up"),
}


def looks(strategies: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker by strategy, in the order of first appearance."""
    names = list(dict.fromkeys(strategies))
    return {name: LOOKS.get(name, (CYCLE[i % len(CYCLE)], "circle")) for i, name in enumerate(names)}


def place(mflops: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Number of the bucket, 0 to b - 1, for costs (n,).

    Raises:
        ValueError: for edges that do not ascend, or fewer than two.
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges {edges.tolist()}: two or more ascending costs are needed")
    return np.clip(np.searchsorted(edges, mflops, side="right") - 1, 0, len(edges) - 2)


def words(edges: Sequence[float]) -> list[str]:
    """Names of the buckets with two decimals, or none for hundreds of MFLOPs: ["0.10–0.35", ...]."""
    digits = 2 if edges[-1] < 20 else 0
    return [f"{low:.{digits}f}–{high:.{digits}f}" for low, high in pairwise(edges)]


def boxes(runs: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Figure 5, a row a bucket, strategy and seed: columns bucket, low, high (MFLOPs), strategy, seed, n and the five NUMBERS.

    They are of the architectures of round 0. Numbers of a bucket without any are NaN.
    """
    common = runs[runs["round"] == 0]
    groups = common.assign(bucket=place(common["mflops"], edges)).groupby(["strategy", "seed", "bucket"])["top1"]
    numbers = groups.quantile([0, 0.25, 0.5, 0.75, 1]).unstack().set_axis(NUMBERS, axis=1)
    out = _grid(runs, edges).merge(numbers.assign(n=groups.size()).reset_index(), how="left", on=["strategy", "seed", "bucket"])
    out["n"] = out["n"].fillna(0).astype(int)
    return out[["bucket", "low", "high", "strategy", "seed", "n", *NUMBERS]].sort_values("bucket", kind="stable", ignore_index=True)


def pooled(found: pd.DataFrame) -> pd.DataFrame:
    """What `boxes` returned, each number averaged over the seeds that have it: columns bucket, low, high, strategy, seeds, NUMBERS."""
    groups = found.groupby(["bucket", "low", "high", "strategy"], sort=False)
    return groups[list(NUMBERS)].mean().assign(seeds=groups["median"].count()).reset_index()


def box_charts(runs: pd.DataFrame, edges: Sequence[float], baseline: str = "uniform") -> tuple[BoxChart, ...]:
    """Figure 5, a chart a bucket with its own scale, a row a strategy; a thin line at the baseline's median."""
    means = pooled(boxes(runs, edges))
    look, charts = looks(means["strategy"]), []
    for bucket, name in enumerate(words(edges)):
        rows = means[means["bucket"] == bucket]
        drawn = tuple(Box(r.strategy, tuple(float(getattr(r, n)) for n in NUMBERS), look[r.strategy][0]) for r in rows.itertuples())
        middle = rows.loc[rows["strategy"] == baseline, "median"].dropna()
        reference = float(middle.iloc[0]) if len(middle) else None
        charts.append(BoxChart(f"boxes-{bucket}", f"{name} MFLOPs", "top-1 accuracy, %", drawn, reference))
    return tuple(charts)


def gains(runs: pd.DataFrame, edges: Sequence[float], baseline: str = "uniform") -> pd.DataFrame:
    """Figure 6, a row a bucket, strategy and seed: columns bucket, low, high (MFLOPs), strategy, seed, top1 and gain.

    top1 is the best of everything evaluated in the bucket, gain that minus the baseline's of the same seed
    (percentage points). Both are NaN where there is nothing to tell.

    Raises:
        ValueError: if a seed has no run of the baseline.
    """
    if missing := sorted(set(runs["seed"]) - set(runs.loc[runs["strategy"] == baseline, "seed"])):
        raise ValueError(f"seed {missing[0]} has no run of {baseline!r}, which the others are compared with")
    best = runs.assign(bucket=place(runs["mflops"], edges)).groupby(["strategy", "seed", "bucket"])["top1"].max().reset_index()
    out = _grid(runs, edges).merge(best, how="left", on=["strategy", "seed", "bucket"])
    base = out.loc[out["strategy"] == baseline, ["seed", "bucket", "top1"]]
    out = out.merge(base, how="left", on=["seed", "bucket"], suffixes=("", "_baseline"))
    out["gain"] = out["top1"] - out["top1_baseline"]
    columns = ["bucket", "low", "high", "strategy", "seed", "top1", "gain"]
    return out[columns].sort_values("bucket", kind="stable", ignore_index=True)


def spread(found: pd.DataFrame) -> pd.DataFrame:
    """What `gains` returned, over seeds: columns bucket, low, high, strategy, seeds, top1, gain (means), gain_sd (sample deviation).

    seeds counts those with a gain; gain_sd is NaN for fewer than two.
    """
    groups = found.groupby(["bucket", "low", "high", "strategy"], sort=False)
    out = groups[["top1", "gain"]].mean().assign(gain_sd=groups["gain"].std(ddof=1), seeds=groups["gain"].count())
    return out.reset_index()[["bucket", "low", "high", "strategy", "seeds", "top1", "gain", "gain_sd"]]


def gain_chart(runs: pd.DataFrame, edges: Sequence[float], baseline: str = "uniform") -> Chart:
    """Figure 6: mean gain over the baseline with a standard deviation over seeds; strategies side by side within a bucket."""
    means = spread(gains(runs, edges, baseline))
    look, names = looks(means["strategy"]), words(edges)
    others = [s for s in look if s != baseline]
    shifts = np.linspace(-0.3, 0.3, len(others)) if len(others) > 1 else [0.0]
    series = [Series(baseline, np.array([-0.5, len(names) - 0.5]), np.zeros(2), GREY, dash="dash")]
    for strategy, shift in zip(others, shifts):
        rows = means[means["strategy"] == strategy]
        colour, marker = look[strategy]
        x, error = rows["bucket"].to_numpy() + shift, rows["gain_sd"].to_numpy()
        series.append(Series(strategy, x, rows["gain"].to_numpy(), colour, marker, error=error))
    title = f"Best found, above {baseline} (mean ± sd over seeds)"
    marks = tuple(enumerate(names))
    return Chart("gains", title, "cost, MFLOPs", "gain in top-1, percentage points", tuple(series), marks=marks, broad=True)


def fronts(runs: pd.DataFrame) -> pd.DataFrame:
    """The best Pareto front of everything each run evaluated: columns strategy, seed, mflops, top1, round; cost ascending."""
    parts = []
    for _, rows in runs.groupby(["strategy", "seed"], sort=False):
        front = best_front(rows["mflops"].to_numpy(), rows["top1"].to_numpy())
        parts.append(rows.iloc[front][["strategy", "seed", "mflops", "top1", "round"]])
    return pd.concat(parts, ignore_index=True)


def front_charts(runs: pd.DataFrame, baseline: str = "uniform") -> tuple[Chart, ...]:
    """A chart a strategy: its fronts, a line a seed, over those of the baseline.

    The average of fronts is not defined, and a front over all seeds would be none that a training reached.
    """
    found, log = fronts(runs), wide(runs["mflops"].to_numpy())
    look = looks(found["strategy"])
    base = found[found["strategy"] == baseline]
    if base.empty:
        raise ValueError(f"no run of {baseline!r}, which the others are compared with; there are {list(look)}")
    charts = []
    for strategy, (colour, _) in look.items():
        if strategy != baseline:
            mine = found[found["strategy"] == strategy]
            series = Series(baseline, *lines(base), GREY, dash="solid"), Series(strategy, *lines(mine), colour, dash="solid")
            charts.append(Chart(f"fronts-{strategy}", strategy, "cost, MFLOPs", "top-1 accuracy, %", series, log_x=log))
    return tuple(charts)


def lines(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the fronts of several seeds as one series: a NaN between two seeds interrupts the line.

    Args:
        rows: columns seed, mflops, top1; those of a seed cost ascending.
    """
    gap = pd.DataFrame({"mflops": [np.nan], "top1": [np.nan]})
    parts = [p for _, mine in rows.groupby("seed") for p in (mine[["mflops", "top1"]], gap)][:-1]
    joined = pd.concat(parts)
    return joined["mflops"].to_numpy(), joined["top1"].to_numpy()


def _grid(runs: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """A row a run and bucket, runs in the order in which they come: columns strategy, seed, bucket, low, high."""
    edges = np.asarray(edges, dtype=np.float64)
    buckets = pd.DataFrame({"bucket": np.arange(len(edges) - 1), "low": edges[:-1], "high": edges[1:]})
    return runs[["strategy", "seed"]].drop_duplicates().merge(buckets, how="cross")

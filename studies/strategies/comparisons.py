"""Results of the runs, and comparisons between strategies, distillation losses and search spaces by bucket of cost.

Frames of runs have the columns strategy, seed, mflops, top1 (percent) and round: 0 for the architectures that all runs evaluate, 1 and
more for those of the search. `edges` are b + 1 ascending costs in MFLOPs: a bucket includes its lower edge but not its upper one, and
the end buckets include what lies outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.cost.table import CostTable
from studies.claims import POINTS, Comparison

KL = "KL"  # name of the runs that distil by KL, the loss that AlphaNet replaces
ALPHAS = ("alpha", "alpha_min", "alpha_max")  # keys of the loss that AlphaNet's Figure 9 varies
COLUMNS = {  # of each frame: those that identify a row, then the others
    "runs": ((), ("strategy", "seed", "mflops", "top1", "round")),
    "finals": (("strategy", "seed"), ("hypervolume", "top1_low", "top1_best")),
    "ranks": (("figure", "seed"), ("tau", "tau_flops", "paper")),
    "trials": (("seed",), ("uniform", "proposal", "exact")),
    "spaces": (("space", "seed"), ("hypervolume",)),
    "models": (("seed", "model"), ("top1_inherited", "top1_scratch")),
}


@dataclass(frozen=True)
class Setting:
    """One key of the loss and its values."""

    key: str  # e.g. "alpha_min"
    default: str  # the base's value, e.g. "-1"
    others: tuple[str, ...]  # names of the runs that differ from the base in this key alone, e.g. "alpha_min -2"


@dataclass(frozen=True, eq=False)
class Ablation:
    """Runs that differ in the distillation loss (AlphaNet, supplement, section D); the column `strategy` has the loss's name.

    AlphaNet's Figures 9 and 10 vary alpha and beta, and do not say what beta is: most likely the bound of the ratio, here `clip`. So
    the alphas are one figure, and the clip, the weight against the labels and the temperature, one at a time, another.
    """

    base: str  # name of the loss that the others are compared with, e.g. "adaptive"
    settings: tuple[Setting, ...]
    runs: pd.DataFrame  # strategy, seed, mflops, top1 (percent), round, in the order of the page
    finals: pd.DataFrame  # strategy, seed, hypervolume, top1_low, top1_best (percent)


def figures_of(losses: Ablation) -> dict[str, tuple[Setting, ...]]:
    """The settings that each figure varies, by the name of its file."""
    alphas = tuple(s for s in losses.settings if s.key in ALPHAS)
    return {"alphanet_9": alphas, "alphanet_10": tuple(s for s in losses.settings if s not in alphas)}


def runs_of(losses: Ablation, settings: Sequence[Setting]) -> pd.DataFrame:
    """The runs of one figure: those of these settings, the base, and KL."""
    others = {name for s in losses.settings if s not in settings for name in s.others}
    return losses.runs[~losses.runs["strategy"].isin(others)]


def bucket_edges(table: CostTable, buckets: int) -> np.ndarray:
    """(buckets + 1,) costs that bound buckets of equal width from the cheapest architecture to the most expensive, MFLOPs."""
    return np.linspace(table.smallest, table.largest, buckets + 1)


def bucket_numbers(mflops: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Number of the bucket, 0 to b - 1, for costs (n,).

    Raises:
        ValueError: for edges that do not ascend, or fewer than two.
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges {edges.tolist()}: two or more ascending costs are needed")
    return np.clip(np.searchsorted(edges, mflops, side="right") - 1, 0, len(edges) - 2)


@dataclass(frozen=True, eq=False)
class Results:
    """Results of the runs. A frame that is None or empty becomes one without rows: the claims that need it are not run.

    Raises:
        ValueError: if a frame lacks a column or has a row twice, or the edges are not ascending.
    """

    edges: Sequence[float]  # of the buckets of cost, ascending, MFLOPs; the end buckets include what lies outside
    runs: pd.DataFrame | None = None  # everything evaluated: strategy, seed, mflops, top1 (percent), round (0: common to all)
    finals: pd.DataFrame | None = None  # strategy, seed, hypervolume, top1_low, top1_best (percent)
    ranks: pd.DataFrame | None = None  # figure (4a to 4c, 7a to 7c), seed, tau, tau_flops (of cost alone), paper (its tau)
    trials: pd.DataFrame | None = None  # seed (of the pool), mean trials per sample: uniform, proposal, exact
    spaces: pd.DataFrame | None = None  # space ("deep" or "wide"), seed, hypervolume
    models: pd.DataFrame | None = None  # seed, model, top1_inherited, top1_scratch (percent)
    losses: Ablation | None = None  # of distillation

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or not (np.diff(self.edges) > 0).all():
            raise ValueError(f"edges {list(self.edges)} must be two or more ascending costs")
        for name, (keys, values) in COLUMNS.items():
            frame = getattr(self, name)
            if frame is None or frame.empty:
                object.__setattr__(self, name, pd.DataFrame({c: pd.Series(dtype=float) for c in (*keys, *values)}))
                continue
            if missing := [c for c in (*keys, *values) if c not in frame]:
                raise ValueError(f"{name} has no column {missing[0]!r}; it needs {', '.join((*keys, *values))}")
            if keys and frame.duplicated(list(keys)).any():
                twice = frame.loc[frame.duplicated(list(keys)), list(keys)].iloc[0]
                raise ValueError(f"{name} has a row twice: {', '.join(f'{k} {v}' for k, v in twice.items())}")


def best(runs: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Highest top-1 (percent) of everything evaluated: a row per (strategy, seed), a column per bucket; NaN in an empty bucket."""
    return _bucketed(runs, edges, 1.0)


def quantiles(runs: pd.DataFrame, edges: Sequence[float], quantile: float) -> pd.DataFrame:
    """A quantile of the top-1 (percent) of the architectures of round 0, in the shape of `best`."""
    return _bucketed(runs[runs["round"] == 0], edges, quantile)


def _bucketed(runs: pd.DataFrame, edges: Sequence[float], quantile: float) -> pd.DataFrame:
    bucket = bucket_numbers(runs["mflops"].to_numpy(np.float64), edges)
    levels = runs.groupby(["strategy", "seed", bucket])["top1"].quantile(quantile).unstack()
    return levels.reindex(columns=range(len(edges) - 1))


def melted(frame: pd.DataFrame, a: str, b: str, names: tuple[str, str], part: str | None = None) -> pd.DataFrame:
    """Two columns in the shape of `best`: rows (name, seed), a column per value of `part`, or a single one."""
    frame = frame.rename(columns={a: names[0], b: names[1]})
    long = frame.melt(["seed"] if part is None else ["seed", part], list(names), "who", "level")
    long["part"] = 0 if part is None else long[part]
    return long.pivot(index=["who", "seed"], columns="part", values="level")


def compare(levels: pd.DataFrame, a: str, b: str, what: str, unit: str, published: str = "") -> tuple[Comparison, ...]:
    """A over B with the seeds of both; no comparison where there is no such seed.

    Args:
        levels: rows (name, seed), one or more columns; the mean is taken over the columns in which both A and B have a number.
        a: the name that is claimed to be higher.
        b: the other name.
        what: is compared; "" if the names of A and B say it.
        unit: of the levels.
        published: the paper's figure.
    """
    if not {a, b} <= set(levels.index.get_level_values(0)):
        return ()
    high, low = levels.xs(a).align(levels.xs(b), join="inner", axis=0)
    both = high.notna() & low.notna()
    high, low = (side.where(both).mean(axis=1).dropna().sort_index() for side in (high, low))
    if high.empty:
        return ()
    name = f"{a} over {b}" + (f": {what}" if what else "")
    return (Comparison(name, unit, tuple(int(s) for s in high.index), tuple(high.tolist()), tuple(low.tolist()), published),)


def cheapest_and_mean(levels: pd.DataFrame, a: str, b: str, what: str, published: str = "") -> tuple[Comparison, ...]:
    """In the cheapest bucket, which `published` is about, and as the mean over the buckets."""
    cheapest = compare(levels.iloc[:, :1], a, b, f"{what}, cheapest bucket", POINTS, published)
    return cheapest + compare(levels, a, b, f"{what}, mean over buckets", POINTS)

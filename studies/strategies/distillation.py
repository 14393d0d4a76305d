"""Distillation losses side by side, per bucket of cost (AlphaNet, arXiv:2102.07954, section D of its supplement).

Its Figures 9 and 10 draw box plots of sampled sub-networks for several alpha and beta, and do not say
what beta is: most likely the bound of the ratio, `clip` here. So alpha is one figure, and everything
else that can be set another: the clip, the weight against the labels (the beta of its Eq. 7 and 8) and
the temperature, one at a time. Supernets are trained with uniform sampling and differ in the loss alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from nas.plots.style import BLUE, CYCLE, INK, BoxChart
from studies.strategies import buckets

KL = "KL"  # name of the runs that distil by KL, the loss that AlphaNet replaces
ALPHAS = ("alpha", "alpha_min", "alpha_max")  # keys of the first figure


@dataclass(frozen=True)
class Setting:
    """One key of the loss, and what it was set to."""

    key: str  # e.g. "alpha_min"
    default: str  # the base's value, e.g. "-1"
    others: tuple[str, ...]  # names of the runs that differ from the base in this key alone, e.g. "alpha_min -2"


@dataclass(frozen=True, eq=False)
class Ablation:
    """Runs that differ in the distillation loss; in the frames its name is the column `strategy`."""

    base: str  # name of the loss that the others are set against, e.g. "adaptive"
    settings: tuple[Setting, ...]
    runs: pd.DataFrame  # strategy, seed, mflops, top1 (percent), round (0: the same networks for all), in the order to be shown
    finals: pd.DataFrame  # strategy, seed, hypervolume, top1_low, top1_best (percent)


def figures(found: Ablation) -> dict[str, tuple[Setting, ...]]:
    """What each figure varies, by the name of its file."""
    alphas = tuple(s for s in found.settings if s.key in ALPHAS)
    return {"alphanet_9": alphas, "alphanet_10": tuple(s for s in found.settings if s not in alphas)}


def shown(found: Ablation, settings: Sequence[Setting]) -> pd.DataFrame:
    """The runs of one figure: those that differ in these settings, the base, and what belongs to no setting (KL)."""
    elsewhere = {name for s in found.settings if s not in settings for name in s.others}
    return found.runs[~found.runs["strategy"].isin(elsewhere)]


def box_charts(found: Ablation, edges: Sequence[float], figure: str) -> tuple[BoxChart, ...]:
    """A chart a bucket of cost, a row a loss, a colour a setting; a thin line at the base's median.

    Args:
        found: the runs.
        edges: of the buckets, MFLOPs, ascending.
        figure: one of `figures`.
    """
    look = {found.base: BLUE} | {name: CYCLE[1 + i % (len(CYCLE) - 1)] for i, s in enumerate(found.settings) for name in s.others}
    charts = buckets.box_charts(shown(found, figures(found)[figure]), edges, found.base)
    return tuple(
        replace(chart, key=f"{figure}-{i}", boxes=tuple(replace(b, colour=look.get(b.name, INK)) for b in chart.boxes))
        for i, chart in enumerate(charts)
    )

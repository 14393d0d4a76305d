"""Rank correlation of accuracies: predictor against supernet, and supernet against supernet (AttentiveNAS, Figures 4 and 7).

Section 4.3 and appendix B: the same architectures are measured with the early and with the final weights of supernets that were
trained on different partitions (seeds). Figure 4 compares the forest's predictions with measurements, Figure 7 measurements with
measurements. The paper shows seed 0, and seed 1 where two are needed; here each seed counts once and is paired with the next one (the
last with the first), so that there is a standard error. Each rank correlation comes with that of cost alone with the same measurements.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas.evaluation.metrics import kendall_tau
from nas.plots.style import BLUE, GREY, Chart, Series


@dataclass(frozen=True)
class Panel:
    """One of three of a figure: the column that ranks (`x`), and the column to be ranked (`y`)."""

    title: str
    x: str
    y: str
    across: bool  # x of a seed, y of the next one
    equal: bool  # both from weights of the same age, so that equal values are expected
    paper: float  # its Kendall's tau


PANELS = {
    "4a": Panel("(a) early weights", "predicted", "early", across=False, equal=True, paper=0.89),
    "4b": Panel("(b) final weights", "predicted", "final", across=False, equal=False, paper=0.87),
    "4c": Panel("(c) other partition", "predicted", "early", across=True, equal=True, paper=0.88),
    "7a": Panel("(a) both early", "early", "early", across=True, equal=True, paper=0.94),
    "7b": Panel("(b) both final", "final", "final", across=True, equal=True, paper=0.96),
    "7c": Panel("(c) early and final", "early", "final", across=False, equal=False, paper=0.88),
}


def points(frames: Mapping[int, pd.DataFrame], figure: str) -> pd.DataFrame:
    """Points of a figure, of all seeds: columns figure ('4a', ...), seed (of x), against (the seed of y), mflops, x, y (percent).

    Figure 4 has the architectures that the forest was not fitted to, Figure 7 all of them. With a single
    seed the panels that need two have no rows.

    Args:
        frames: by seed; columns mflops, part ('fit' or 'test'), predicted, early, final (top-1, percent); the same
            architectures in the same order for all seeds.
        figure: '4' or '7'.

    Raises:
        ValueError: for another figure, no seeds, or seeds with different architectures.
    """
    names = [name for name in PANELS if name[0] == figure]
    if not names:
        raise ValueError(f"figure {figure!r} is not one of {sorted({name[0] for name in PANELS})}")
    _check(frames)
    parts = []
    for name in names:
        panel = PANELS[name]
        for seed, against in _pairs(sorted(frames), panel):
            rows = {"figure": name, "seed": seed, "against": against, "mflops": frames[seed]["mflops"].to_numpy()}
            part = pd.DataFrame({**rows, "x": frames[seed][panel.x].to_numpy(), "y": frames[against][panel.y].to_numpy()})
            parts.append(part[frames[seed]["part"].to_numpy() == "test"] if figure == "4" else part)
    return pd.concat(parts, ignore_index=True)


def table(frames: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """A row per panel and seed: columns figure, seed, against, tau, tau_flops (cost alone ranks the same y), paper, n (architectures).

    Arguments and errors as `points`; also ValueError where there is no ranking, as in `kendall_tau`.
    """
    rows = []
    for figure in ("4", "7"):
        for (name, seed, against), drawn in points(frames, figure).groupby(["figure", "seed", "against"], sort=True):
            tau, tau_flops = kendall_tau(drawn["x"], drawn["y"]), kendall_tau(drawn["mflops"], drawn["y"])
            rows.append((name, seed, against, tau, tau_flops, PANELS[name].paper, len(drawn)))
    return pd.DataFrame(rows, columns=["figure", "seed", "against", "tau", "tau_flops", "paper", "n"])


def charts(frames: Mapping[int, pd.DataFrame], figure: str) -> tuple[Chart, ...]:
    """The panels of Figure '4' or '7' for the first seed (and the second). Arguments as `points`, errors as `table`."""
    panels = []
    for name, rows in points(frames, figure).groupby("figure", sort=True):
        panel = PANELS[name]
        seed, against = rows["seed"].iloc[0], rows["against"].iloc[0]
        rows = rows[(rows["seed"] == seed) & (rows["against"] == against)]
        x, y = rows["x"].to_numpy(), rows["y"].to_numpy()
        series = [Series("a sub-network", x, y, BLUE, "circle", faint=True)]
        if panel.equal:
            ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
            series.append(Series("equal", ends, ends, GREY, dash="dash"))
        labels = f"{panel.x} top-1, seed {seed}, %", f"{panel.y} top-1, seed {against}, %"
        panels.append(Chart(f"ranks-{name}", f"{panel.title}: Kendall's τ = {kendall_tau(x, y):.2f}", *labels, tuple(series)))
    return tuple(panels)


def _pairs(seeds: list[int], panel: Panel) -> list[tuple[int, int]]:
    """Each seed with itself, or with the next one; two seeds are one pair where the order has no meaning."""
    if not panel.across:
        return [(s, s) for s in seeds]
    pairs = [(s, n) for s, n in zip(seeds, seeds[1:] + seeds[:1]) if s != n]
    return pairs[:1] if len(seeds) == 2 and panel.x == panel.y else pairs


def _check(frames: Mapping[int, pd.DataFrame]) -> None:
    if not frames:
        raise ValueError("no seeds: frames is empty")
    first = min(frames)
    for seed, frame in frames.items():
        for column in ("mflops", "part"):
            if frame[column].tolist() != frames[first][column].tolist():
                raise ValueError(f"column {column} of seed {seed} differs from seed {first}'s: the same architectures in order are needed")

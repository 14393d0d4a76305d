"""Alpha and beta as heat maps, one time of the search beside the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage


@dataclass(frozen=True, eq=False)
class Map:
    """One choice over time."""

    title: str
    names: Sequence[str]  # of what may be chosen
    weights: np.ndarray  # (times, choices)


@dataclass(frozen=True, eq=False)
class Maps:
    """What one search came to."""

    title: str
    times: Sequence[float]  # that the weights are of, evenly
    rows: Sequence[Sequence[Map]]


def draw(found: Sequence[Maps], unit: str, path: Path) -> None:
    """A PNG: each search below the other.

    Args:
        unit: of the times, e.g. "epoch".
    """
    widest, tall = max(len(row) for one in found for row in one.rows), sum(len(one.rows) for one in found)
    figure = Figure(figsize=(2 + 1.2 * widest, 2.25 * tall), layout="constrained")
    parts = figure.subfigures(len(found), 1, squeeze=False, height_ratios=[len(one.rows) for one in found])[:, 0]
    for part, one in zip(parts, found):
        part.suptitle(one.title, fontsize=9)
        _draw(part, one, unit)
    figure.savefig(path, dpi=100)


def _draw(figure: SubFigure, found: Maps, unit: str) -> None:
    grid = figure.subplots(len(found.rows), max(map(len, found.rows)), squeeze=False)
    for row, places in zip(found.rows, grid):
        for i, (one, axes) in enumerate(zip(row, places)):
            named = i == 0 or list(one.names) != list(row[i - 1].names)
            shown = _map(axes, one, found.times, unit, named)
        for axes in places[len(row) :]:
            axes.set_axis_off()
    figure.colorbar(shown, ax=grid, label="weight", shrink=0.6)


def _map(axes: Axes, found: Map, times: Sequence[float], unit: str, named: bool) -> AxesImage:
    step = (times[-1] - times[0]) / max(len(times) - 1, 1) or 1
    n = found.weights.shape[1]
    extent = (times[0] - step / 2, times[-1] + step / 2, n - 0.5, -0.5)
    shown = axes.imshow(found.weights.T, aspect="auto", vmin=0, vmax=1, cmap="viridis", extent=extent, interpolation="nearest")
    axes.set_title(found.title, fontsize=7)
    axes.set_yticks(range(n), found.names if named else [""] * n, fontsize=6)
    axes.tick_params(axis="x", labelsize=6)
    axes.set_xlabel(unit, fontsize=6)
    return shown

"""Architecture parameters (alpha and beta) over the course of a search, as heatmaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Weights of the options of one choice over time."""

    title: str
    options: Sequence[str]
    weights: np.ndarray  # (times, options)


@dataclass(frozen=True, eq=False)
class Panel:
    """The heatmaps of one search, in rows."""

    title: str
    times: Sequence[float]  # of the weights, evenly spaced
    rows: Sequence[Sequence[Heatmap]]


def draw(panels: Sequence[Panel], unit: str, path: Path) -> None:
    """Write a PNG with the panels below each other.

    Args:
        unit: of the times, e.g. "epoch".
    """
    columns, heights = max(len(row) for panel in panels for row in panel.rows), [len(panel.rows) for panel in panels]
    figure = Figure(figsize=(2 + 1.2 * columns, 2.25 * sum(heights)), layout="constrained")
    subfigures = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for subfigure, panel in zip(subfigures, panels):
        subfigure.suptitle(panel.title, fontsize=9)
        _draw_panel(subfigure, panel, unit)
    figure.savefig(path, dpi=100)


def _draw_panel(figure: SubFigure, panel: Panel, unit: str) -> None:
    grid = figure.subplots(len(panel.rows), max(map(len, panel.rows)), squeeze=False)
    for row, cells in zip(panel.rows, grid):
        for i, (heatmap, axes) in enumerate(zip(row, cells)):
            labelled = i == 0 or list(heatmap.options) != list(row[i - 1].options)
            image = _draw_heatmap(axes, heatmap, panel.times, unit, labelled)
        for axes in cells[len(row) :]:
            axes.set_axis_off()
    figure.colorbar(image, ax=grid, label="weight", shrink=0.6)


def _draw_heatmap(axes: Axes, heatmap: Heatmap, times: Sequence[float], unit: str, labelled: bool) -> AxesImage:
    step = (times[-1] - times[0]) / max(len(times) - 1, 1) or 1
    n = heatmap.weights.shape[1]
    extent = (times[0] - step / 2, times[-1] + step / 2, n - 0.5, -0.5)
    image = axes.imshow(heatmap.weights.T, aspect="auto", vmin=0, vmax=1, cmap="viridis", extent=extent, interpolation="nearest")
    axes.set_title(heatmap.title, fontsize=7)
    axes.set_yticks(range(n), heatmap.options if labelled else [""] * n, fontsize=6)
    axes.tick_params(axis="x", labelsize=6)
    axes.set_xlabel(unit, fontsize=6)
    return image

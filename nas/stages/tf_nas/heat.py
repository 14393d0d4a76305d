"""Alpha and beta as heat maps, an epoch beside the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

from nas.differentiable.tf_nas.space import Space


@dataclass(frozen=True, eq=False)
class Strengths:
    """What one search came to, epoch by epoch."""

    title: str
    operations: Sequence[np.ndarray]  # an epoch: (layers, operations) weights
    sinks: Sequence[Sequence[np.ndarray]]  # an epoch: a stage, (depth,) weights


def draw(found: Sequence[Strengths], space: Space, path: Path) -> None:
    """A PNG: of each search, above the weights of each layer's operations, below those of each stage's depths, over the epochs."""
    figure = Figure(figsize=(2 + 1.2 * len(space.layers), 4.5 * len(found)), layout="constrained")
    for part, one in zip(np.atleast_1d(figure.subfigures(len(found), 1)), found):
        part.suptitle(one.title, fontsize=9)
        _draw(part, one, space)
    figure.savefig(path, dpi=100)


def _draw(figure: SubFigure, found: Strengths, space: Space) -> None:
    layers = np.stack(found.operations)  # (epochs, layers, operations)
    depths = [np.stack(sinks) for sinks in zip(*found.sinks)]  # a stage: (epochs, depth)
    grid = figure.subplots(2, len(space.layers), squeeze=False)
    names = [operation.name for operation in space.operations]
    for axes, place, weights in zip(grid[0], space.layers, layers.swapaxes(0, 1)):
        shown = _map(
            axes, weights, f"stage {place.stage + 1}, layer {place.number + 1}", names if axes is grid[0, 0] else [""] * len(names)
        )
    for i, (axes, weights) in enumerate(zip(grid[1], depths)):
        _map(axes, weights, f"depth of stage {i + 1}", [str(d + 1) for d in range(weights.shape[1])])
    for axes in grid[1, len(depths) :]:
        axes.set_axis_off()
    figure.colorbar(shown, ax=grid, label="weight", shrink=0.6)


def _map(axes: Axes, weights: np.ndarray, title: str, names: Sequence[str]) -> AxesImage:
    """(epochs, choices) weights, an epoch beside the other."""
    shown = axes.imshow(weights.T, aspect="auto", vmin=0, vmax=1, cmap="viridis")
    axes.set_title(title, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_xlabel("epoch", fontsize=6)
    return shown

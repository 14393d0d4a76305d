"""Charts: described once, drawn by matplotlib (PNG files) and by plotly (the HTML page).

Colours are those of Okabe and Ito, distinguishable with any colour vision; dashes and markers differ as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

BLUE, ORANGE, GREEN, PURPLE, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C96A0", "#22303C"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", "#E69F00")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "star": "*", "triangle-up": "^"}  # plotly's name: matplotlib's
DASHES = {"solid": "-", "dash": "--", "dot": ":"}


@dataclass(frozen=True, eq=False)
class Series:
    """One line or cloud of points of a chart."""

    name: str  # in the legend
    x: np.ndarray  # (n,)
    y: np.ndarray  # (n,)
    colour: str
    marker: str | None = None  # a key of MARKERS; None: no points
    dash: str | None = None  # a key of DASHES; None: no line
    faint: bool = False  # many points in the background
    labels: tuple[str, ...] = ()  # text beside the points
    aside: bool = False  # labels below and to the right of the points instead of above
    band: tuple[np.ndarray, np.ndarray] | None = None  # (n,) lower and (n,) upper edge of a shaded area
    error: np.ndarray | None = None  # (n,) half the length of the vertical error bars; NaN: no bar


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure with one pair of axes."""

    key: str  # file name and HTML id, e.g. "pareto"
    title: str
    x: str  # axis label with its unit
    y: str
    series: tuple[Series, ...]
    log_x: bool = False
    log_y: bool = False
    marks: tuple[tuple[float, str], ...] = ()  # ticks of the horizontal axis, (position, label); empty: automatic
    broad: bool = False  # wider than others, e.g. for many series


@dataclass(frozen=True, eq=False)
class Box:
    """Five-number summary of one group of values; all NaN for an empty group."""

    name: str  # of the row
    numbers: tuple[float, float, float, float, float]  # minimum, first quartile, median, third quartile, maximum
    colour: str


@dataclass(frozen=True, eq=False)
class BoxChart:
    """Horizontal box plots, the first on top: whiskers to the extremes, a box between the quartiles, a bar at the median."""

    key: str  # file name and HTML id
    title: str
    x: str  # axis label with its unit
    boxes: tuple[Box, ...]
    reference: float | None = None  # position of a thin vertical line, in the unit of the axis


def wide(values: np.ndarray) -> bool:
    """Whether positive values span more than a factor of 6, so that a logarithmic axis is easier to read."""
    return len(values) > 0 and min(values) > 0 and max(values) > 6 * min(values)


def image(*charts: Chart | BoxChart) -> Figure:
    """Charts side by side, at most three per row, as a matplotlib figure; no pyplot, no global state.

    Adjacent box charts with the same rows label them once, at the left.
    """
    rows = ceil(len(charts) / 3)
    columns = ceil(len(charts) / rows)
    width, height = _size(charts)
    figure = Figure(figsize=(columns * width, rows * height), dpi=150, layout="constrained", facecolor="white")
    if len(charts) > 2:
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches; small panels would touch
    grid = np.ravel(figure.subplots(rows, columns))
    for i, (axes, chart) in enumerate(zip(grid, charts)):
        if isinstance(chart, BoxChart):
            _draw_boxes(axes, chart, labelled=i % columns == 0 or _rows(charts[i - 1]) != _rows(chart))
        else:
            _draw(axes, chart)
    for axes in grid[len(charts) :]:
        axes.set_axis_off()
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    figure.savefig(path, format="png", metadata={"Software": None})


def interactive(chart: Chart | BoxChart) -> go.Figure:
    """The chart for the browser, without its title, which the page prints."""
    if isinstance(chart, BoxChart):
        return _interactive_boxes(chart)
    figure = go.Figure()
    for s in chart.series:
        mode = "+".join(part for part, on in (("lines", s.dash), ("markers", s.marker), ("text", s.labels)) if on)
        if s.band is not None:
            x, y = np.concatenate([s.x, s.x[::-1]]), np.concatenate([s.band[1], s.band[0][::-1]])
            figure.add_scatter(
                x=x.tolist(), y=y.tolist(), fill="toself", line={"width": 0}, fillcolor=_faded(s.colour), hoverinfo="skip", showlegend=False
            )
        figure.add_scatter(
            x=np.asarray(s.x).tolist(),
            y=np.asarray(s.y).tolist(),
            name=s.name,
            mode=mode,
            opacity=0.35 if s.faint else 1,
            text=list(s.labels) or None,
            textposition="bottom right" if s.aside else "top center",
            line={"color": s.colour, "dash": s.dash or "solid", "width": 2},
            marker={"color": s.colour, "symbol": s.marker or "circle", "size": 5 if s.faint else 9},
            hovertemplate=f"%{{x:.4g}}, %{{y:.4g}}<extra>{s.name}</extra>",
            cliponaxis=False,
            error_y=None if s.error is None else {"array": np.asarray(s.error).tolist(), "thickness": 1.2, "width": 0},
        )
    figure.update_layout(**_layout(height=440))
    for axis, label, log, name in ((figure.layout.xaxis, chart.x, chart.log_x, "x"), (figure.layout.yaxis, chart.y, chart.log_y, "y")):
        axis.update(title={"text": label, "standoff": 8}, automargin=True, zeroline=False, linecolor=GREY, ticks="outside", tickcolor=GREY)
        if log:
            marks = ticks(_values(chart, name))
            axis.update(type="log", tickvals=marks, ticktext=[f"{m:,.10g}" for m in marks])
    if chart.marks:
        figure.layout.xaxis.update(tickvals=[x for x, _ in chart.marks], ticktext=[label for _, label in chart.marks])
    return figure


def ticks(values: np.ndarray) -> list[float]:
    """Round tick values for a logarithmic axis: 1, 2, 5 and their decades, or decades alone if the range is wide."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        raise ValueError("a logarithmic axis needs at least one positive number")
    low, high = log10(values.min()), log10(values.max())
    digits = (1,) if high - low > 3 else (1, 2, 5) if high - low > 1.2 else (1, 1.5, 2, 3, 4, 5, 7)
    decades = range(floor(low), ceil(high) + 1)
    return [float(f"{d * 10.0**e:.2g}") for e in decades for d in digits if low - 0.15 <= log10(d) + e <= high + 0.15]


def _interactive_boxes(chart: BoxChart) -> go.Figure:
    figure = go.Figure()
    for b in _filled(chart):
        low, first, middle, third, high = ([float(v)] for v in b.numbers)
        figure.add_box(
            y=[b.name],
            lowerfence=low,
            q1=first,
            median=middle,
            q3=third,
            upperfence=high,
            name=b.name,
            orientation="h",
            line={"color": b.colour, "width": 1.6},
            fillcolor=_faded(b.colour),
            showlegend=False,
        )
    names = _rows(chart)
    figure.update_layout(**_layout(height=100 + 34 * len(names)))
    look = {"automargin": True, "zeroline": False, "linecolor": GREY, "ticks": "outside", "tickcolor": GREY}
    figure.layout.xaxis.update(title={"text": chart.x, "standoff": 8}, hoverformat=".2f", **look)
    figure.layout.yaxis.update(type="category", categoryorder="array", categoryarray=names, range=[len(names) - 0.5, -0.5], **look)
    if chart.reference is not None:
        figure.add_vline(x=float(chart.reference), line={"color": GREY, "width": 1, "dash": "dot"})
    return figure


def _layout(height: int) -> dict:
    return {
        "template": "plotly_white",
        "font": {"family": FONT, "size": 13, "color": INK},
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "height": height,
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 12}},
        "hovermode": "closest",
    }


def _size(charts: Sequence[Chart | BoxChart]) -> tuple[float, float]:
    """Size of one chart in inches: (width, height)."""
    if boxes := [c for c in charts if isinstance(c, BoxChart)]:
        return 7.2 if len(charts) == 1 else 4.2, 1.1 + 0.3 * max(len(c.boxes) for c in boxes)
    width = {1: 7.2, 2: 5.6}.get(len(charts), 4.2)
    return (1.5 * width if any(c.broad for c in charts) else width), 4.8 if len(charts) < 3 else 4.3


def _draw(axes: Axes, chart: Chart) -> None:
    for s in chart.series:
        if s.band is not None:
            axes.fill_between(s.x, *s.band, color=s.colour, alpha=0.18, linewidth=0)
        axes.plot(
            s.x,
            s.y,
            color=s.colour,
            linestyle=DASHES[s.dash] if s.dash else "none",
            linewidth=1.8,
            marker=MARKERS[s.marker] if s.marker else None,
            markersize=3 if s.faint else 10 if s.marker == "star" else 6,
            markeredgewidth=0 if s.faint else 0.8,
            markeredgecolor="white",
            alpha=0.35 if s.faint else 1,
            label=s.name,
            zorder=1 if s.faint else 3,
        )
        if s.error is not None:
            axes.vlines(s.x, s.y - s.error, s.y + s.error, color=s.colour, linewidth=1.2, alpha=0.7, zorder=2)
        shift, side = ((5, -13), "left") if s.aside else ((0, 7), "center")
        for x, y, label in zip(s.x, s.y, s.labels):
            axes.annotate(label, (x, y), shift, textcoords="offset points", ha=side, color=s.colour, fontsize=9, zorder=4)
    axes.set_ylabel(chart.y, color=INK)
    axes.margins(x=0.07, y=0.1)
    for log, name, axis in ((chart.log_x, "x", axes.xaxis), (chart.log_y, "y", axes.yaxis)):
        if log:
            getattr(axes, f"set_{name}scale")("log")
            axis.set_major_locator(FixedLocator(ticks(_values(chart, name))))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
    if chart.marks:
        axes.set_xticks([x for x, _ in chart.marks], [label for _, label in chart.marks])
    _dress(axes, chart)
    if len(chart.series) > 1:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.16),
            ncols=4 if chart.broad else 2,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            borderaxespad=0,
            columnspacing=1.5,
        )


def _draw_boxes(axes: Axes, chart: BoxChart, labelled: bool) -> None:
    names = _rows(chart)
    for b in _filled(chart):
        row, (low, first, middle, third, high) = names.index(b.name), b.numbers
        axes.hlines(row, low, high, color=b.colour, linewidth=1.4, zorder=2)
        axes.vlines([low, high], row - 0.16, row + 0.16, color=b.colour, linewidth=1.4, zorder=2)
        axes.barh(row, third - first, left=first, height=0.56, facecolor="white", edgecolor=b.colour, linewidth=1.4, zorder=3)
        axes.barh(row, third - first, left=first, height=0.56, color=b.colour, alpha=0.25, linewidth=0, zorder=4)
        axes.vlines(middle, row - 0.28, row + 0.28, color=b.colour, linewidth=2.4, zorder=5)
    if chart.reference is not None:
        axes.axvline(chart.reference, color=GREY, linewidth=1, linestyle=":", zorder=1)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.margins(x=0.05)
    _dress(axes, chart)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelleft=labelled)


def _dress(axes: Axes, chart: Chart | BoxChart) -> None:
    axes.set_title(chart.title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    axes.set_xlabel(chart.x, color=INK)
    axes.grid(color="#E3E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=INK)


def _rows(chart: BoxChart) -> list[str]:
    return [b.name for b in chart.boxes]


def _filled(chart: BoxChart) -> list[Box]:
    return [b for b in chart.boxes if np.isfinite(b.numbers).all()]


def _values(chart: Chart, name: str) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(s, name), dtype=np.float64) for s in chart.series])


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"

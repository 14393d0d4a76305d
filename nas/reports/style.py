"""One look for all figures: a chart is described once, drawn by matplotlib (PNG) and by plotly (the HTML page).

Colours are those of Okabe and Ito, told apart with any colour vision; dashes and markers differ as well.
"""

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
    marker: str | None = None  # a key of MARKERS; None for no points
    dash: str | None = None  # a key of DASHES; None for no line
    faint: bool = False  # a background of many points
    labels: tuple[str, ...] = ()  # words beside the points
    aside: bool = False  # the labels go below and to the right of the points, not above
    band: tuple[np.ndarray, np.ndarray] | None = None  # (n,) lower and (n,) upper edge of a shaded band


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


def wide(values: np.ndarray) -> bool:
    """Whether positive values span so much that their logarithm is easier to read."""
    return len(values) > 0 and min(values) > 0 and max(values) > 6 * min(values)


def picture(*charts: Chart) -> Figure:
    """Charts side by side as a matplotlib figure; no pyplot, no global state."""
    figure = Figure(figsize=(7.2 if len(charts) == 1 else 5.6 * len(charts), 4.8), dpi=150, layout="constrained", facecolor="white")
    for axes, chart in zip(np.atleast_1d(figure.subplots(1, len(charts))), charts):
        _draw(axes, chart)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write as PNG; the same figure gives the same bytes."""
    figure.savefig(path, format="png", metadata={"Software": None})


def interactive(chart: Chart) -> go.Figure:
    """The same chart for the browser; no title, which the page prints."""
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
        )
    figure.update_layout(
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        height=440,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 12}},
        hovermode="closest",
    )
    for axis, label, log, name in ((figure.layout.xaxis, chart.x, chart.log_x, "x"), (figure.layout.yaxis, chart.y, chart.log_y, "y")):
        axis.update(title={"text": label, "standoff": 8}, automargin=True, zeroline=False, linecolor=GREY, ticks="outside", tickcolor=GREY)
        if log:
            marks = ticks(_values(chart, name))
            axis.update(type="log", tickvals=marks, ticktext=[f"{m:,g}" for m in marks])
    return figure


def ticks(values: np.ndarray) -> list[float]:
    """Round numbers for a logarithmic axis: 1, 2, 5 and their decades, or decades alone if there are many."""
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        raise ValueError("a logarithmic axis needs a positive number; there is none")
    low, high = log10(values.min()), log10(values.max())
    digits = (1,) if high - low > 3 else (1, 2, 5) if high - low > 1.2 else (1, 1.5, 2, 3, 4, 5, 7)
    decades = range(floor(low), ceil(high) + 1)
    return [float(f"{d * 10.0**e:.2g}") for e in decades for d in digits if low - 0.15 <= log10(d) + e <= high + 0.15]


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
        shift, side = ((5, -13), "left") if s.aside else ((0, 7), "center")
        for x, y, label in zip(s.x, s.y, s.labels):
            axes.annotate(label, (x, y), shift, textcoords="offset points", ha=side, color=s.colour, fontsize=9, zorder=4)
    axes.set_title(chart.title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    axes.set_xlabel(chart.x, color=INK)
    axes.set_ylabel(chart.y, color=INK)
    axes.margins(x=0.07, y=0.1)
    for log, name, axis in ((chart.log_x, "x", axes.xaxis), (chart.log_y, "y", axes.yaxis)):
        if log:
            getattr(axes, f"set_{name}scale")("log")
            axis.set_major_locator(FixedLocator(ticks(_values(chart, name))))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axes.grid(color="#E3E7EB", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=INK)
    if len(chart.series) > 1:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.16),
            ncols=2,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            borderaxespad=0,
            columnspacing=1.5,
        )


def _values(chart: Chart, name: str) -> np.ndarray:
    return np.concatenate([np.asarray(getattr(s, name), dtype=np.float64) for s in chart.series])


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"

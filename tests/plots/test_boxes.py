"""Box charts, error bars, named marks and grids of panels, as matplotlib and plotly draw them."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nas.plots import style
from nas.plots.style import Box, BoxChart, Chart, Series

NONE = (np.nan,) * 5
BOXES = BoxChart(
    "toy",
    "Title",
    "top-1, %",
    (
        Box("one", (50.0, 60.0, 65.0, 70.0, 90.0), style.BLUE),
        Box("empty", NONE, style.GREEN),
        Box("two", (55, 61, 66, 71, 80), style.ORANGE),
    ),
    reference=65.0,
)
POINTS = Chart(
    "p", "Points", "x", "y", (Series("s", np.array([0.0, 1]), np.array([5.0, 6]), style.BLUE, "circle", error=np.array([1.0, 2])),)
)


def test_both_drawings_hold_the_five_numbers():
    """plotly's box has them by name; matplotlib's boxes lie between the quartiles."""
    box = style.interactive(BOXES).data[0]
    assert [box[k][0] for k in ("lowerfence", "q1", "median", "q3", "upperfence")] == [50, 60, 65, 70, 90]
    spans = {(p.get_x(), p.get_x() + p.get_width()) for p in style.image(BOXES).axes[0].patches}
    assert spans == {(60, 70), (61, 71)}


def test_a_row_without_values_stays_empty_but_named():
    """Two boxes in three rows, the first on top in both."""
    axes, figure = style.image(BOXES).axes[0], style.interactive(BOXES)
    assert [t.get_text() for t in axes.get_yticklabels()] == list(figure.layout.yaxis.categoryarray) == ["one", "empty", "two"]
    assert [b.name for b in figure.data] == ["one", "two"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1] and figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]


def test_rows_are_named_once_in_a_row_of_panels():
    """Of four panels in two rows the left ones carry the names; one with other rows carries its own."""
    axes = style.image(BOXES, BOXES, BOXES, BOXES).axes
    assert [a.yaxis.get_tick_params()["labelleft"] for a in axes] == [True, False, True, False]
    axes = style.image(BOXES, replace(BOXES, boxes=BOXES.boxes[:1])).axes
    assert [a.yaxis.get_tick_params()["labelleft"] for a in axes] == [True, True]


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 2), (5, 2, 3), (7, 3, 3)])
def test_panels_stand_three_in_a_row_at_most(n, rows, columns):
    """As few rows as three columns allow; places left over are blank."""
    axes = style.image(*[BOXES] * n).axes
    grid = axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == (rows, columns) and sum(a.axison for a in axes) == n


def test_error_bars_reach_as_far_on_both_sides():
    """(0, 5 +- 1) and (1, 6 +- 2) in both drawings."""
    (bars,) = style.image(POINTS).axes[0].collections
    assert [s.tolist() for s in bars.get_segments()] == [[[0, 4], [0, 6]], [[1, 4], [1, 8]]]
    assert style.interactive(POINTS).data[0].error_y.array == (1, 2)


def test_marks_name_places_on_the_axis():
    """Words instead of numbers, at the same places in both drawings."""
    chart = replace(POINTS, marks=((0, "cheap"), (1, "dear")))
    axes, layout = style.image(chart).axes[0], style.interactive(chart).layout
    assert [t.get_text() for t in axes.get_xticklabels()] == list(layout.xaxis.ticktext) == ["cheap", "dear"]
    assert axes.get_xticks().tolist() == list(layout.xaxis.tickvals) == [0, 1]


def test_nothing_of_a_grid_is_cut_off():
    """The outermost pixels of five panels are all white, and so are those of a broad chart with eight names."""
    broad = replace(POINTS, broad=True, series=tuple(replace(POINTS.series[0], name=f"bestup-3-loss-flat {i}") for i in range(8)))
    for figure in (style.image(*[BOXES] * 5), style.image(broad)):
        buffer = io.BytesIO()
        style.save(figure, buffer)
        pixels = np.asarray(Image.open(buffer).convert("L"))
        assert min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])) == 255


def test_large_numbers_on_a_logarithmic_axis_are_written_out():
    """A million reads 1,000,000 in both drawings."""
    chart = replace(POINTS, log_y=True, series=(Series("s", np.array([1.0, 2]), np.array([10.0, 2e6]), style.BLUE, dash="solid"),))
    assert "1,000,000" in style.interactive(chart).layout.yaxis.ticktext
    assert "1,000,000" in [style.image(chart).axes[0].yaxis.get_major_formatter()(1e6, 0)]

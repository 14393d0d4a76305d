"""Charts as matplotlib and plotly draw them."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas.plots import style
from nas.plots.style import Chart, Series

CHART = Chart(
    "toy",
    "Title",
    "cost, MFLOPs",
    "top-1, %",
    (
        Series("line", np.array([1.0, 10, 100]), np.array([50.0, 60, 70]), style.BLUE, "circle", "solid", labels=("a0", "a1", "a2")),
        Series("band", np.array([2.0, 20]), np.array([55.0, 65]), style.ORANGE, dash="dot", band=(np.array([50, 60]), np.array([60, 70]))),
    ),
    log_x=True,
)


def test_both_backends_draw_the_numbers_of_the_chart():
    """matplotlib's lines and plotly's traces have the x and y of the series."""
    axes = style.image(CHART).axes[0]
    traces = {t.name: t for t in style.interactive(CHART).data if t.name}
    for line, series in zip(axes.lines, CHART.series):
        assert line.get_xdata().tolist() == list(traces[series.name].x) == series.x.tolist()
        assert line.get_ydata().tolist() == list(traces[series.name].y) == series.y.tolist()


def test_axes_carry_labels_and_units():
    """Both backends print the axis labels and use logarithmic axes where set."""
    axes, layout = style.image(CHART).axes[0], style.interactive(CHART).layout
    assert (axes.get_xlabel(), axes.get_ylabel()) == (layout.xaxis.title.text, layout.yaxis.title.text) == ("cost, MFLOPs", "top-1, %")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (layout.xaxis.type, layout.yaxis.type) == ("log", None)


def test_the_band_reaches_from_edge_to_edge():
    """plotly's outline follows the upper edge and returns along the lower one."""
    outline = next(t for t in style.interactive(CHART).data if t.fill)
    assert list(zip(outline.x, outline.y)) == [(2, 60), (20, 70), (20, 60), (2, 50)]


def test_charts_are_drawn_side_by_side():
    """Two charts give a figure with two pairs of axes, from left to right."""
    axes = style.image(CHART, replace(CHART, title="Other")).axes
    assert [a.get_title(loc="left") for a in axes] == ["Title", "Other"]


def test_the_same_chart_gives_the_same_png(tmp_path):
    """Two drawings have equal bytes and are not blank."""
    for name in ("a.png", "b.png"):
        style.save(style.image(CHART), tmp_path / name)
    png = (tmp_path / "a.png").read_bytes()
    assert png == (tmp_path / "b.png").read_bytes()
    low, high = Image.open(io.BytesIO(png)).convert("L").getextrema()
    assert low < 100 and high == 255


def test_nothing_is_cut_off_at_the_edge():
    """With the longest legend in use, the outermost pixels are all white."""
    long = replace(
        CHART, series=tuple(replace(s, name=f"front of random search (search split) {i}") for i, s in enumerate(CHART.series * 3))
    )
    buffer = io.BytesIO()
    style.save(style.image(long), buffer)
    pixels = np.asarray(Image.open(buffer).convert("L"))
    assert min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])) == 255


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 3, [0.1, 0.2, 0.5, 1, 2]), (203, 1939, [150, 200, 300, 400, 500, 700, 1000, 1500, 2000]), (1, 1e6, [10.0**e for e in range(7)])],
)
def test_ticks_are_round_numbers(low, high, expected):
    """Ranges of a factor of 30, 10 and a million give 1-2-5 ticks, finer ticks, and decades alone."""
    assert style.ticks(np.array([low, high])) == pytest.approx(expected)


@given(st.floats(1e-3, 1e6), st.floats(1, 1e6))
def test_there_are_always_some_ticks(low, factor):
    """Every range has between one and twelve ticks."""
    assert 1 <= len(style.ticks(np.array([low, low * factor]))) <= 12


def test_no_ticks_without_a_positive_number():
    """A logarithmic axis of zeros raises."""
    with pytest.raises(ValueError, match="positive number"):
        style.ticks(np.zeros(3))


def test_wide_ranges_get_a_logarithmic_axis():
    """A factor of 10 is wide, a factor of 3 is not, and a range with zero never is."""
    assert [style.wide(np.array(v)) for v in ([203.0, 1939], [203.0, 709], [0.0, 10], [])] == [True, False, False, False]

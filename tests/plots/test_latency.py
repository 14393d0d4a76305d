"""The latency figure: measured latency against the lookup table, with error bars."""

import numpy as np
import pandas as pd
import pytest

from nas.plots import latency, style

VALIDATION = pd.DataFrame(
    {
        "network": [3, 4, 5],
        "mflops": [1.0, 3.0, 2.0],
        "predicted_latency_ms": [0.5, 0.7, 0.9],
        "first_latency_ms": [0.48, 0.7, 1.0],
        "second_latency_ms": [0.52, 0.8, 0.9],
    }
)
SETTING = {"device": "AMD EPYC", "backend": "torch", "batch": 1}


def test_points_are_means_and_bars_span_both_measurements():
    """A point is the mean of two measurements, its bar spans both."""
    table, flops = latency.charts(VALIDATION, SETTING)
    (_, by_table), (by_flops,) = table.series, flops.series
    assert by_table.x.tolist() == [0.5, 0.7, 0.9] and by_flops.x.tolist() == [1, 3, 2]
    for series in (by_table, by_flops):
        assert series.y == pytest.approx([0.5, 0.75, 0.95]) and series.error == pytest.approx([0.02, 0.05, 0.05])


def test_titles_state_the_device_and_both_rank_correlations():
    """The table orders all three pairs correctly, FLOPs two of them."""
    table, flops = latency.charts(VALIDATION, SETTING)
    assert table.title == "AMD EPYC, torch, batch 1: Kendall's τ = 1.00" and flops.title.endswith("τ = 0.33")
    assert "ms" in table.x and "ms" in table.y and "ms" in flops.y


def test_both_backends_draw_the_charts():
    """matplotlib and plotly draw both charts."""
    charts = latency.charts(VALIDATION, SETTING)
    assert len(style.image(*charts).axes) == 2
    assert style.interactive(charts[0]).data[1].error_y.array == pytest.approx(tuple(np.array([0.02, 0.05, 0.05])))


def test_without_networks_there_is_no_figure():
    """A table without validation raises."""
    with pytest.raises(ValueError, match="no networks to validate"):
        latency.charts(VALIDATION[:0], SETTING)

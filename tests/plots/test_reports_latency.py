"""The latency figure: predicted against measured, with the noise."""

import numpy as np
import pandas as pd
import pytest

from nas.plots import latency, style

JUDGED = pd.DataFrame(
    {
        "network": [3, 4, 5],
        "mflops": [1.0, 3.0, 2.0],
        "predicted_latency_ms": [0.5, 0.7, 0.9],
        "first_latency_ms": [0.48, 0.7, 1.0],
        "second_latency_ms": [0.52, 0.8, 0.9],
    }
)
SETTING = {"device": "AMD EPYC", "backend": "torch", "batch": 1}


def test_points_are_networks_and_bars_the_two_measurements():
    """Measured is the mean of the two, a bar reaches from one to the other."""
    table, flops = latency.charts(JUDGED, SETTING)
    (_, points), (alone,) = table.series, flops.series
    assert points.x.tolist() == [0.5, 0.7, 0.9] and alone.x.tolist() == [1, 3, 2]
    for series in (points, alone):
        assert series.y == pytest.approx([0.5, 0.75, 0.95]) and series.error == pytest.approx([0.02, 0.05, 0.05])


def test_titles_tell_the_device_and_both_rankings():
    """The table orders all three pairs rightly, FLOPs two of them."""
    table, flops = latency.charts(JUDGED, SETTING)
    assert table.title == "AMD EPYC, torch, batch 1: Kendall's τ = 1.00" and flops.title.endswith("τ = 0.33")
    assert "ms" in table.x and "ms" in table.y and "ms" in flops.y


def test_it_can_be_drawn():
    """By both drawings."""
    charts = latency.charts(JUDGED, SETTING)
    assert len(style.image(*charts).axes) == 2
    assert style.interactive(charts[0]).data[1].error_y.array == pytest.approx(tuple(np.array([0.02, 0.05, 0.05])))


def test_without_networks_there_is_no_figure():
    """A table that was never judged."""
    with pytest.raises(ValueError, match="no networks to judge"):
        latency.charts(JUDGED[:0], SETTING)

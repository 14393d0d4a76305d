"""Inherited weights against training from scratch: means computed by hand."""

import numpy as np
import pandas as pd
import pytest

from studies.strategies import charts

ROWS = [  # seed, model, mflops, inherited, from scratch
    (1, "a1", 2.0, 81.0, 80.0),
    (0, "a1", 4.0, 90.0, 85.0),
    (0, "a0", 1.0, 70.0, 71.0),
    (1, "a0", 1.0, 72.0, 71.0),
]
MODELS = pd.DataFrame(ROWS, columns=["seed", "model", "mflops", "top1_inherited", "top1_scratch"])


def test_differences_are_inherited_minus_scratch():
    """Sorted by seed and cost: -1, 5, 1, 1."""
    rows = charts.inherited_differences(MODELS)
    assert rows["difference"].tolist() == [-1, 5, 1, 1] and rows["model"].tolist() == ["a0", "a1", "a0", "a1"]


def test_summary_averages_over_seeds_what_each_seed_found():
    """Per seed the mean difference is 2 and 1: mean 1.5, deviation 1 / sqrt(2), whatever the models' own spread."""
    whole = charts.inherited_summary(MODELS).iloc[-1]
    assert (whole["model"], whole["seeds"], whole["difference"]) == ("all", 2, 1.5)
    assert whole["difference_sd"] == pytest.approx(np.sqrt(0.5)) and whole["top1_inherited"] == pytest.approx((80 + 76.5) / 2)


def test_summary_has_a_row_a_model_cheapest_first():
    """a0: -1 and 1, mean 0, deviation sqrt(2); a1: 5 and 1, mean 3; a1's mean cost is 3."""
    table = charts.inherited_summary(MODELS).set_index("model")
    assert list(table.index) == ["a0", "a1", "all"] and table["difference"].tolist() == [0, 3, 1.5]
    assert table.loc["a0", "difference_sd"] == pytest.approx(np.sqrt(2)) and table.loc["a1", "mflops"] == 3


def test_one_seed_has_no_spread():
    """The deviation over a single seed is not zero but unknown."""
    table = charts.inherited_summary(MODELS.query("seed == 0"))
    assert table["difference"].tolist() == [-1, 5, 2] and table["difference_sd"].isna().all()


def test_charts_join_the_two_accuracies_of_a_network():
    """A vertical line from inherited to scratch, interrupted before the next; the other chart has the mean over seeds."""
    both, gain = charts.inherited_charts(MODELS)
    joined = both.series[0]
    assert joined.x[:3].tolist() == pytest.approx([1, 1, np.nan], nan_ok=True)
    assert joined.y[:5].tolist() == pytest.approx([70, 71, np.nan, 90, 85], nan_ok=True)
    assert gain.series[1].y.tolist() == [1.5, 1.5] and gain.series[1].name == "mean over seeds, +1.50"
    assert gain.series[2].y.tolist() == [-1, 5, 1, 1]

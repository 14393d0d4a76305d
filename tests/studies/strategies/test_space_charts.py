"""Figure 9: areas done by hand, fronts by comparing all pairs."""

import numpy as np
import pandas as pd
import pytest

from studies.strategies import charts

ROWS = [  # space, seed, mflops, top1
    ("narrow", 0, 2.0, 50.0),
    ("narrow", 0, 6.0, 70.0),
    ("narrow", 0, 7.0, 60.0),
    ("narrow", 1, 5.0, 60.0),
    ("wide", 0, 5.0, 50.0),
    ("wide", 0, 10.0, 90.0),
]
RUNS = pd.DataFrame(ROWS, columns=["space", "seed", "mflops", "top1"])


def test_fronts_hold_what_nothing_beats():
    """(7, 60) costs more than (6, 70) and is worth less; the seeds do not see each other."""
    assert len(charts.fronts(RUNS, "space")) == 5
    narrow = charts.fronts(RUNS, "space").query("space == 'narrow'")
    assert list(zip(narrow["seed"], narrow["mflops"], narrow["top1"])) == [(0, 2, 50), (0, 6, 70), (1, 5, 60)]


def test_areas_share_the_reference():
    """Reference 10 MFLOPs and 10 %: 0.8 * 0.4 + 0.4 * 0.2 = 0.40; 0.5 * 0.5 = 0.25; 0.5 * 0.4 = 0.20, the most expensive adding nothing."""
    areas = charts.space_hypervolumes(RUNS, reference_mflops=10, chance=10)
    assert areas["hypervolume"].tolist() == pytest.approx([0.40, 0.25, 0.20])
    assert list(zip(areas["space"], areas["seed"], areas["evaluations"])) == [("narrow", 0, 3), ("narrow", 1, 1), ("wide", 0, 2)]


def test_chart_has_a_colour_a_space_and_a_line_a_seed():
    """Two series; that of two seeds is interrupted once, after the first one's two points."""
    narrow, wide = charts.space_chart(RUNS).series
    assert (narrow.name, wide.name) == ("narrow", "wide") and narrow.colour != wide.colour
    assert np.isnan(narrow.x).tolist() == [False, False, True, False] and wide.y.tolist() == [50, 90]

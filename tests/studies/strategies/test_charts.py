"""Figures 5 and 6 against numpy and against sums done by hand."""

import numpy as np
import pandas as pd
import pytest

from nas.evaluation.metrics import best_front
from nas.plots import style
from studies.strategies import charts, comparisons

EDGES = [1.0, 2.0, 3.0]
ROWS = [  # strategy, seed, mflops, top1, round
    ("uniform", 0, 1.1, 50.0, 0),
    ("uniform", 0, 1.9, 60.0, 0),
    ("uniform", 0, 2.5, 70.0, 0),
    ("uniform", 0, 2.6, 72.0, 1),
    ("uniform", 1, 1.1, 52.0, 0),
    ("uniform", 1, 1.9, 58.0, 0),
    ("uniform", 1, 2.5, 71.0, 0),
    ("bestup-3-loss", 0, 1.1, 51.0, 0),
    ("bestup-3-loss", 0, 1.9, 59.0, 0),
    ("bestup-3-loss", 0, 2.5, 70.0, 0),
    ("bestup-3-loss", 0, 1.5, 63.0, 2),
    ("bestup-3-loss", 1, 1.1, 53.0, 0),
    ("bestup-3-loss", 1, 1.9, 59.0, 0),
]
RUNS = pd.DataFrame(ROWS, columns=["strategy", "seed", "mflops", "top1", "round"])


def test_buckets_hold_their_lower_edge_and_the_ends_hold_the_rest():
    """2.0 is in the second bucket; below and above the edges counts to the first and the last."""
    assert comparisons.bucket_numbers(np.array([0.5, 1.0, 1.99, 2.0, 3.0, 9.0]), EDGES).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0]])
def test_edges_must_ascend(edges):
    """Fewer than two, equal or descending costs bound nothing."""
    with pytest.raises(ValueError, match="ascending"):
        comparisons.bucket_numbers(np.array([1.0]), edges)


def test_box_numbers_are_numpys_quantiles_of_the_common_architectures():
    """Of 80 random runs; what the search added (round 1) does not count."""
    rng = np.random.default_rng(1)
    runs = pd.DataFrame({"strategy": "uniform", "seed": 0, "mflops": rng.uniform(1, 3, 80), "top1": rng.uniform(0, 99, 80), "round": 0})
    found = charts.box_quantiles(pd.concat([runs, runs.assign(top1=99.9, round=1)]), EDGES)
    for bucket, (low, high) in enumerate(((1, 2), (2, 3))):
        inside = runs["top1"][(runs["mflops"] >= low) & (runs["mflops"] < high)]
        row = found.iloc[bucket]
        assert row[list(charts.QUANTILES)].tolist() == pytest.approx(np.percentile(inside, [0, 25, 50, 75, 100]).tolist())
        assert (row["n"], row["low"], row["high"]) == (len(inside), low, high)


def test_a_bucket_without_architectures_has_no_numbers():
    """BestUp with seed 1 has nothing in the second bucket: a row of NaN, and the mean over seeds is seed 0's."""
    found = charts.box_quantiles(RUNS, EDGES)
    (empty,) = found.query("strategy == 'bestup-3-loss' and seed == 1 and bucket == 1").itertuples()
    assert empty.n == 0 and np.isnan(empty.median) and len(found) == 2 * 2 * 2
    (pooled,) = charts.mean_quantiles(found).query("strategy == 'bestup-3-loss' and bucket == 1").itertuples()
    assert (pooled.median, pooled.seeds) == (70, 1)


def test_pooled_boxes_are_means_of_each_number():
    """Uniform, first bucket: 50 and 60 with seed 0, 52 and 58 with seed 1; minimum 51, median 55, maximum 59."""
    (row,) = charts.mean_quantiles(charts.box_quantiles(RUNS, EDGES)).query("strategy == 'uniform' and bucket == 0").itertuples()
    assert (row.minimum, row.median, row.maximum, row.seeds) == (51, 55, 59, 2)


def test_box_charts_are_one_a_bucket_in_the_order_of_the_strategies():
    """Rows as they come, the line at uniform's median (55 in the first bucket, whoever is first)."""
    first, second = charts.box_charts(RUNS[::-1], EDGES)
    assert [b.name for b in first.boxes] == ["bestup-3-loss", "uniform"] and first.reference == 55
    assert (first.title, second.title) == ("1.00–2.00 MFLOPs", "2.00–3.00 MFLOPs")


def test_gain_is_the_best_of_everything_above_uniforms_of_the_same_seed():
    """First bucket: 63 (found by the search) - 60 = 3 with seed 0, 59 - 58 = 1 with seed 1; second: 70 - 72 = -2 and nothing."""
    gains = charts.gains(RUNS, EDGES).query("strategy == 'bestup-3-loss'")
    assert gains["gain"].tolist() == pytest.approx([3, 1, -2, np.nan], nan_ok=True)
    spread = charts.mean_gains(charts.gains(RUNS, EDGES)).query("strategy == 'bestup-3-loss'")
    assert spread["gain"].tolist() == [2, -2] and spread["seeds"].tolist() == [2, 1]
    assert spread["gain_sd"].tolist() == pytest.approx([np.sqrt(2), np.nan], nan_ok=True)


def test_the_baseline_gains_nothing_over_itself():
    """Zero in every bucket it has something in, without spread."""
    base = charts.mean_gains(charts.gains(RUNS, EDGES)).query("strategy == 'uniform'")
    assert base["gain"].tolist() == [0, 0] and base["gain_sd"].tolist() == [0, 0]


def test_a_seed_without_the_baseline_is_named():
    """There is nothing to compare with."""
    with pytest.raises(ValueError, match=r"seed 1 .*'uniform'"):
        charts.gains(RUNS.query("strategy != 'uniform' or seed == 0"), EDGES)
    with pytest.raises(ValueError, match="'uniform'"):
        charts.front_charts(RUNS.query("strategy != 'uniform'"))


def test_gain_chart_has_a_zero_line_and_a_bar_a_strategy():
    """The baseline is the line at zero; the bars are deviations; buckets are named at their middle."""
    zero, bestup = charts.gain_chart(RUNS, EDGES).series
    assert zero.name == "uniform" and not zero.y.any()
    assert bestup.y.tolist() == [2, -2] and bestup.error[0] == pytest.approx(np.sqrt(2))
    assert charts.gain_chart(RUNS, EDGES).marks == ((0, "1.00–2.00"), (1, "2.00–3.00"))


def test_fronts_are_computed_per_run():
    """The same as the front of the run's own rows, never of two seeds together."""
    found = charts.fronts(RUNS)
    for (strategy, seed), rows in RUNS.groupby(["strategy", "seed"]):
        front = rows.iloc[best_front(rows["mflops"].to_numpy(), rows["top1"].to_numpy())]
        mine = found[(found["strategy"] == strategy) & (found["seed"] == seed)]
        assert mine[["mflops", "top1"]].to_numpy().tolist() == front[["mflops", "top1"]].to_numpy().tolist()


def test_a_line_is_interrupted_between_two_seeds():
    """One NaN between them, none at the ends: uniform's fronts have 4 and 3 points."""
    (chart,) = charts.front_charts(RUNS)
    assert (chart.key, chart.title) == ("fronts-bestup-3-loss", "bestup-3-loss")
    assert np.isnan(chart.series[0].x).nonzero()[0].tolist() == [4] and len(chart.series[0].x) == 8


def test_eight_strategies_have_eight_colours():
    """No two alike, and strategies that nobody foresaw have one too."""
    assert len({colour for colour, _ in charts.STYLES.values()}) == 8
    assert charts.styles(["uniform", "other"])["other"][0] in style.CYCLE


@pytest.mark.parametrize(("edges", "expected"), [([0.1, 0.25, 0.4], ["0.10–0.25", "0.25–0.40"]), ([203.4, 1939.3], ["203–1939"])])
def test_buckets_are_named_by_their_costs(edges, expected):
    """Two decimals for small networks, none for large ones."""
    assert charts.bucket_names(edges) == expected

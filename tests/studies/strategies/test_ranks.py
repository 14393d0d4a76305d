"""Figures 4 and 7 against scipy and against rankings done by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.strategies import ranks

N = 40


@pytest.fixture(scope="module")
def frames() -> dict[int, pd.DataFrame]:
    """Three seeds, N architectures, every second one in the test half."""
    rng = np.random.default_rng(0)
    mflops = rng.uniform(0.1, 3, N)
    return {
        seed: pd.DataFrame(
            {
                "mflops": mflops,
                "part": ["fit", "test"] * (N // 2),
                "predicted": 60 + 5 * mflops + rng.normal(0, 2, N),
                "early": 60 + 5 * mflops + rng.normal(0, 2, N),
                "final": 70 + 5 * mflops + rng.normal(0, 2, N),
            }
        )
        for seed in range(3)
    }


def test_each_seed_counts_once_in_each_panel(frames):
    """Six panels, three seeds; across partitions each seed is followed by the next, the last by the first."""
    table = ranks.table(frames)
    assert table["figure"].tolist() == [f for f in ("4a", "4b", "4c", "7a", "7b", "7c") for _ in range(3)]
    for figure, pairs in {"4b": [(0, 0), (1, 1), (2, 2)], "4c": [(0, 1), (1, 2), (2, 0)], "7a": [(0, 1), (1, 2), (2, 0)]}.items():
        rows = table[table["figure"] == figure]
        assert list(zip(rows["seed"], rows["against"])) == pairs


@pytest.mark.parametrize(
    ("figure", "x", "y", "seeds", "half", "paper"),
    [
        ("4a", "predicted", "early", (1, 1), True, 0.89),
        ("4b", "predicted", "final", (1, 1), True, 0.87),
        ("4c", "predicted", "early", (2, 0), True, 0.88),
        ("7a", "early", "early", (1, 2), False, 0.94),
        ("7b", "final", "final", (2, 0), False, 0.96),
        ("7c", "early", "final", (0, 0), False, 0.88),
    ],
)
def test_tau_is_scipys_on_the_columns_of_the_paper(frames, figure, x, y, seeds, half, paper):
    """Figure 4 on the half the forest has not seen, Figure 7 on all; cost alone ranks the same measured values."""
    one, other = (frames[s].iloc[1::2] if half else frames[s] for s in seeds)
    (row,) = ranks.table(frames).query(f"figure == '{figure}' and seed == {seeds[0]}").itertuples()
    assert row.tau == pytest.approx(stats.kendalltau(one[x], other[y]).statistic)
    assert row.tau_flops == pytest.approx(stats.kendalltau(one["mflops"], other[y]).statistic)
    assert (row.against, row.paper, row.n) == (seeds[1], paper, N // 2 if half else N)


def test_points_are_the_measured_values_in_order(frames):
    """Panel 4c, seed 0: what its forest predicts beside what seed 1 measured."""
    rows = ranks.points(frames, "4").query("figure == '4c' and seed == 0")
    assert rows["x"].tolist() == frames[0]["predicted"][1::2].tolist() and rows["y"].tolist() == frames[1]["early"][1::2].tolist()
    assert rows["mflops"].tolist() == frames[0]["mflops"][1::2].tolist()


def test_charts_show_the_first_seeds(frames):
    """Three panels, titles with tau, points of seed 0 (and 1); a diagonal only where the weights are of one age."""
    drawn = ranks.charts(frames, "7")
    table = ranks.table(frames).query("seed == 0").set_index("figure")
    assert [c.key for c in drawn] == ["ranks-7a", "ranks-7b", "ranks-7c"]
    assert all(c.title.endswith(f"{table.loc[f, 'tau']:.2f}") for c, f in zip(drawn, ("7a", "7b", "7c")))
    assert np.array_equal(drawn[1].series[0].y, frames[1]["final"]) and "seed 1" in drawn[1].y
    assert [len(c.series) for c in drawn] == [2, 2, 1]


def test_two_seeds_are_one_pair_where_order_means_nothing(frames):
    """Early 0 against early 1 is early 1 against early 0; forest 0 on seed 1 is not forest 1 on seed 0."""
    table = ranks.table({s: frames[s] for s in (0, 1)})
    assert table["figure"].value_counts().to_dict() == {"4a": 2, "4b": 2, "4c": 2, "7a": 1, "7b": 1, "7c": 2}


def test_a_single_seed_has_no_other_partition(frames):
    """The panels that need two seeds are left out, not filled with a seed against itself."""
    assert ranks.table({0: frames[0]})["figure"].tolist() == ["4a", "4b", "7c"]


def test_seeds_with_other_architectures_are_refused(frames):
    """Rows are compared by position, so the costs must be the same ones; no seeds and an unknown figure are errors too."""
    with pytest.raises(ValueError, match="seed 1"):
        ranks.points({0: frames[0], 1: frames[1].iloc[::-1]}, "4")
    with pytest.raises(ValueError, match="no seeds"):
        ranks.table({})
    with pytest.raises(ValueError, match="'5'"):
        ranks.points(frames, "5")

"""Each figure and table against numbers done by hand, or found by another way."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nas.plots import curves, family, pareto, predictor, sampling, search, transfer
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, StageArch

RESULTS = pd.DataFrame(
    [
        ("greek", "a0", 1.0, 0.1, 0.0, 80.0, np.nan, False),
        ("greek", "a0", 1.0, 0.2, 0.0, 82.0, np.nan, False),
        ("greek", "a1", 4.0, 0.1, 0.0, 91.0, 89.5, True),
        ("greek", "a1", 4.0, 0.2, 0.0, 90.0, np.nan, False),
        ("digits", "a1", 4.0, 0.1, 0.0, 97.0, 96.5, True),
    ],
    columns=["set", "model", "mflops", "learning_rate", "weight_decay", "top1_holdout", "top1_test", "best"],
)
ARCH = Arch(24, 8, (StageArch(8, 1, 3, 1), StageArch(16, 2, 5, 3)), 96)


def named(chart, start: str):
    """The one series whose name begins so."""
    (found,) = [s for s in chart.series if s.name.startswith(start)]
    return found


def test_pareto_fronts_hold_what_nothing_beats(findings):
    """By comparing all pairs: a drawn front has exactly the evaluated networks that none as cheap is as good as."""
    chart = pareto.chart(findings.family, findings.ends, findings.evaluated)
    for name, method in (("front of evolution", "evolution"), ("front of random", "random")):
        points = sorted(set(findings.evaluated.query(f"method == '{method}'")[["mflops", "top1"]].itertuples(index=False, name=None)))
        front = [(c, t) for c, t in points if not any(c2 <= c and t2 >= t and (c2, t2) != (c, t) for c2, t2 in points)]
        drawn = named(chart, name)
        assert list(zip(drawn.x, drawn.y)) == front


def test_pareto_shows_the_family_on_the_test_split(findings):
    """Test accuracy, not the optimistic one of the search; cheapest first, with short names."""
    drawn = named(pareto.chart(findings.family[::-1], findings.ends, findings.evaluated), "the family (test split)")
    assert drawn.y.tolist() == findings.family["top1_test"].tolist() and drawn.labels == ("a0", "a1", "a2", "a3", "a4", "a5")


def test_pareto_without_random_search_leaves_it_out(findings):
    """No random rows, no series that names them."""
    chart = pareto.chart(findings.family, findings.ends, findings.evaluated.query("method == 'evolution'"))
    assert not any("random" in s.name for s in chart.series)


def test_pareto_takes_another_cost(findings):
    """Costs, front and family on the axis of parameters; the front is the best accuracy among as few."""
    family, ends, evaluated = (f.assign(parameters=1000 * f["mflops"]) for f in (findings.family, findings.ends, findings.evaluated))
    by_cost, by_parameters = (pareto.chart(family, ends, evaluated, cost) for cost in ("mflops", "parameters"))
    assert by_parameters.key != by_cost.key and by_parameters.x == "parameters"
    for a, b in zip(by_cost.series, by_parameters.series):
        np.testing.assert_allclose(1000 * a.x, b.x)


@pytest.mark.parametrize(("method", "name"), [("nsga2", "NSGA-II"), ("bayesian", "Bayesian search"), ("random", "random search")])
def test_every_method_has_its_front(findings, method, name):
    """What the family comes from is drawn once and named; random search alone is no baseline of itself."""
    evaluated = findings.evaluated.query("method == 'evolution'").assign(method=method)
    names = [s.name for s in pareto.chart(findings.family, findings.ends, evaluated).series]
    assert [n for n in names if n.startswith("front of")] == [f"front of {name} (search split)"]
    assert [s.name for s in search.chart(evaluated, findings.largest_mflops, 4).series] == [name]


def test_predictor_shows_the_test_part_with_its_rank_correlations(findings):
    """100 of 200 sub-networks, and the titles state scipy's tau on just these."""
    forest, cost = predictor.charts(findings.predictions)
    test = findings.predictions.query("part == 'test'")
    assert np.array_equal(named(forest, "a sub-network").y, test["measured"]) and len(named(cost, "a sub-network").x) == 100
    assert forest.title.endswith(f"{stats.kendalltau(test['predicted'], test['measured']).statistic:.2f}")
    assert cost.title.endswith(f"{stats.kendalltau(test['mflops'], test['measured']).statistic:.2f}")


def test_predictor_refuses_its_own_fit(findings):
    """Without a test part there is nothing to show."""
    with pytest.raises(ValueError, match="'test'"):
        predictor.charts(findings.predictions.query("part == 'fit'"))


def test_sampling_band_is_one_deviation_and_never_below_one_trial():
    """12 +- 5 is 7 to 17, 3 +- 5 is 1 to 8; targets come out ascending."""
    trials = pd.DataFrame({"target": [500, 300], "uniform": [20.0, 9e4], "paper_mean": [12.0, 3.0], "paper_std": 5.0, "exact": 1.0})
    chart = sampling.chart(trials)
    low, high = named(chart, "the paper").band
    assert (low.tolist(), high.tolist()) == ([1, 7], [8, 17])
    assert named(chart, "uniform").y.tolist() == [9e4, 20] and chart.log_y


def test_search_progress_rises_and_ends_at_the_whole_hypervolume():
    """Two points, largest 10 MFLOPs, chance 10 %: 0.8 * 0.4 after the first, 0.4 * 0.2 more after the second."""
    evaluated = pd.DataFrame({"mflops": [2.0, 6.0], "top1": [50.0, 70.0], "method": "evolution"})
    (drawn,) = search.chart(evaluated, 10, 10).series
    assert drawn.x.tolist() == [1, 2] and drawn.y == pytest.approx([0.32, 0.40])


def test_search_progress_never_falls(findings):
    """More evaluations never shrink the area, for either method."""
    chart = search.chart(findings.evaluated, findings.largest_mflops, 100 / 26)
    assert [s.name for s in chart.series] == ["evolution", "random search"]
    assert all((np.diff(s.y) >= 0).all() and s.x[-1] == 384 for s in chart.series)


def test_search_without_evaluations_raises(findings):
    """A method nobody knows is named."""
    with pytest.raises(ValueError, match="annealing"):
        search.chart(findings.evaluated.assign(method="annealing"), 3, 4)


def test_curves_show_each_column_once(findings):
    """Four accuracies (two ends, two trainings) and three losses, as recorded."""
    accuracy, loss = curves.accuracy(findings.pretrain, findings.train), curves.loss(findings.train)
    assert np.array_equal(named(accuracy, "smallest (pretrain)").y, findings.pretrain["top1_smallest"])
    assert np.array_equal(named(accuracy, "largest (train)").y, findings.train["top1_largest"])
    assert np.array_equal(named(loss, "sampled").y, findings.train["loss_sampled"])
    assert (len(accuracy.series), len(loss.series)) == (4, 3)


def test_an_architecture_in_words():
    """Width x depth, kernel and expansion of each stage."""
    assert family.words(ARCH) == "24 px | stem 8 | 8×1 k3 e1 | 16×2 k5 e3 | head 96"


def test_the_family_table_rounds_and_sorts():
    """Cheapest first; three decimals of MFLOPs, three digits of ms, one decimal of accuracy."""
    rows = pd.DataFrame(
        [("b", 2.0, 1.2345, 12345, 71.26, 70.04), ("a", 0.1234, 0.5, 999, 60.0, 59.0)],
        columns=["name", "mflops", "latency_ms", "parameters", "top1_search", "top1_test"],
    ).assign(arch=[encoding.to_json(ARCH)] * 2)
    table = family.table(rows)
    assert table.iloc[1, :6].tolist() == ["b", "2.000", "1.23", "12,345", "71.3", "70.0"] and table["name"].tolist() == ["a", "b"]


def test_transfer_keeps_each_models_best_setting():
    """82 of 80 and 82 for a0; a model that was not tried on a set has no number there."""
    out = transfer.holdout(RESULTS)
    assert list(out) == ["model", "mflops", "greek", "digits"]
    assert out["greek"].tolist() == [82, 91] and np.isnan(out["digits"][0]) and out["digits"][1] == 97


def test_transfer_table_states_the_test_accuracy_where_it_was_chosen():
    """One test figure a set, at the chosen model."""
    table = transfer.table(RESULTS)
    assert table["greek, %"].tolist() == ["82.0", "91.0 → test 89.5"] and table["digits, %"].tolist() == ["–", "97.0 → test 96.5"]


def test_transfer_chart_has_a_star_for_what_was_chosen():
    """(4 MFLOPs, 89.5 %) for greek."""
    drawn = named(transfer.chart(RESULTS), "greek, chosen")
    assert (drawn.x.tolist(), drawn.y.tolist(), drawn.marker) == ([4], [89.5], "star")


def test_transfer_without_a_choice_or_its_test_raises():
    """A set nobody chose for, and a choice nobody tested, are named."""
    with pytest.raises(ValueError, match="'digits' has no row marked best"):
        transfer.chosen(RESULTS.assign(best=RESULTS["best"] & (RESULTS["set"] == "greek")))
    with pytest.raises(ValueError, match=r"'greek'.*no test accuracy"):
        transfer.chosen(RESULTS.assign(top1_test=np.nan))

"""Each figure and table against numbers computed by hand or in another way."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nas.cost.registry import COSTS, Cost
from nas.plots import pareto, predictor, search, training, transfer
from nas.spaces import encoding
from nas.spaces.mbconv import Arch, StageArch

TRANSFER = pd.DataFrame(
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
    """The series whose name starts with a text."""
    (series,) = [s for s in chart.series if s.name.startswith(start)]
    return series


def test_pareto_fronts_are_not_dominated(results):
    """A drawn front has exactly the evaluated architectures that no other one dominates, by comparison of all pairs."""
    chart = pareto.chart(results.family, results.ends, results.evaluated)
    for name, method in (("front of evolution", "evolution"), ("front of random", "random")):
        points = sorted(set(results.evaluated.query(f"method == '{method}'")[["mflops", "top1"]].itertuples(index=False, name=None)))
        front = [(c, t) for c, t in points if not any(c2 <= c and t2 >= t and (c2, t2) != (c, t) for c2, t2 in points)]
        line = named(chart, name)
        assert list(zip(line.x, line.y)) == front


def test_pareto_shows_the_family_on_the_test_split(results):
    """The family is drawn with its test accuracy, not that of the search split; cheapest first, with short names."""
    line = named(pareto.chart(results.family[::-1], results.ends, results.evaluated), "Pareto family (test split)")
    assert line.y.tolist() == results.family["top1_test"].tolist() and line.labels == ("a0", "a1", "a2", "a3", "a4", "a5")


def test_pareto_without_random_search_leaves_it_out(results):
    """Without evaluations of random search, no series names it."""
    chart = pareto.chart(results.family, results.ends, results.evaluated.query("method == 'evolution'"))
    assert not any("random" in s.name for s in chart.series)


def test_pareto_takes_another_cost(results):
    """Evaluations, front and family are drawn over parameters; scaling the cost leaves the figure as it is."""
    family, ends, evaluated = (f.assign(parameters=1000 * f["mflops"]) for f in (results.family, results.ends, results.evaluated))
    by_cost, by_parameters = (pareto.chart(family, ends, evaluated, cost) for cost in ("mflops", "parameters"))
    assert by_parameters.key != by_cost.key and by_parameters.x == "parameters"
    for a, b in zip(by_cost.series, by_parameters.series):
        np.testing.assert_allclose(1000 * a.x, b.x)


@pytest.mark.parametrize(("method", "name"), [("nsga2", "NSGA-II"), ("bayesian", "Bayesian search"), ("random", "random search")])
def test_every_method_has_its_front(results, method, name):
    """The front of the family's method is drawn once; random search is not its own baseline."""
    evaluated = results.evaluated.query("method == 'evolution'").assign(method=method)
    names = [s.name for s in pareto.chart(results.family, results.ends, evaluated).series]
    assert [n for n in names if n.startswith("front of")] == [f"front of {name} (search split)"]
    assert [s.name for s in search.chart(evaluated, results.largest_mflops, 4).series] == [name]


def test_predictor_shows_the_test_part_with_its_rank_correlations(results):
    """100 of 200 sub-networks are drawn, and the titles state scipy's tau of these."""
    forest, cost = predictor.charts(results.predictions)
    test = results.predictions.query("part == 'test'")
    assert np.array_equal(named(forest, "sub-network").y, test["measured"]) and len(named(cost, "sub-network").x) == 100
    assert forest.title.endswith(f"{stats.kendalltau(test['predicted'], test['measured']).statistic:.2f}")
    assert cost.title.endswith(f"{stats.kendalltau(test['mflops'], test['measured']).statistic:.2f}")


def test_predictor_figure_needs_a_test_part(results):
    """Predictions on the fitted sub-networks alone raise."""
    with pytest.raises(ValueError, match="'test'"):
        predictor.charts(results.predictions.query("part == 'fit'"))


def test_sampling_band_is_one_deviation_and_never_below_one_trial():
    """12 ± 5 gives 7 to 17, 3 ± 5 gives 1 to 8; targets are sorted."""
    trials = pd.DataFrame({"target": [500, 300], "uniform": [20.0, 9e4], "paper_mean": [12.0, 3.0], "paper_std": 5.0, "exact": 1.0})
    chart = training.sampling(trials)
    low, high = named(chart, "the paper").band
    assert (low.tolist(), high.tolist()) == ([1, 7], [8, 17])
    assert named(chart, "uniform").y.tolist() == [9e4, 20] and chart.log_y


def test_search_progress_ends_at_the_hypervolume():
    """Two points, largest 10 MFLOPs, chance 10 %: 0.8 * 0.4 after the first, 0.4 * 0.2 more after the second."""
    evaluated = pd.DataFrame({"mflops": [2.0, 6.0], "top1": [50.0, 70.0], "method": "evolution"})
    (line,) = search.chart(evaluated, 10, 10).series
    assert line.x.tolist() == [1, 2] and line.y == pytest.approx([0.32, 0.40])


def test_search_progress_never_falls(results):
    """More evaluations never reduce the hypervolume of a method."""
    chart = search.chart(results.evaluated, results.largest_mflops, 100 / 26)
    assert [s.name for s in chart.series] == ["evolution", "random search"]
    assert all((np.diff(s.y) >= 0).all() and s.x[-1] == 384 for s in chart.series)


def test_an_unknown_method_raises(results):
    """The error names the unknown method."""
    with pytest.raises(ValueError, match="annealing"):
        search.chart(results.evaluated.assign(method="annealing"), 3, 4)


def test_curves_show_each_column_once(results):
    """Four accuracies (two sub-networks, two trainings) and three losses are drawn as recorded."""
    accuracy, loss = training.accuracy(results.pretrain, results.train), training.loss(results.train)
    assert np.array_equal(named(accuracy, "smallest (pretrain)").y, results.pretrain["top1_smallest"])
    assert np.array_equal(named(accuracy, "largest (train)").y, results.train["top1_largest"])
    assert np.array_equal(named(loss, "sampled").y, results.train["loss_sampled"])
    assert (len(accuracy.series), len(loss.series)) == (4, 3)


def test_description_of_an_architecture():
    """A stage reads width × depth, kernel and expansion."""
    assert pareto.describe(ARCH) == "24 px | stem 8 | 8×1 k3 e1 | 16×2 k5 e3 | head 96"


def test_the_family_table_rounds_and_sorts():
    """Models are sorted by cost; MFLOPs have three decimals, ms three digits, accuracy one decimal."""
    rows = pd.DataFrame(
        [("b", 2.0, 1.2345, 12345, 71.26, 70.04), ("a", 0.1234, 0.5, 999, 60.0, 59.0)],
        columns=["name", "mflops", "latency_ms", "parameters", "top1_search", "top1_test"],
    ).assign(arch=[encoding.to_json(ARCH)] * 2)
    table = pareto.table(rows)
    assert list(table) == ["name", "MFLOPs", "parameters", "latency, ms", "top-1 search, %", "top-1 test, %", "architecture"]
    assert table.iloc[1, :6].tolist() == ["b", "2.000", "12,345", "1.23", "71.3", "70.0"] and table["name"].tolist() == ["a", "b"]


def test_a_cost_of_the_registry_is_labelled(monkeypatch, results):
    """A new entry of the registry labels the axis of the Pareto figure and a column of the table."""
    monkeypatch.setitem(COSTS, "energy_mj", Cost("energy_mj", "mJ", "energy, mJ", None))
    family, ends, evaluated = (f.assign(energy_mj=2.5 * f["mflops"]) for f in (results.family, results.ends, results.evaluated))
    assert pareto.chart(family, ends, evaluated, "energy_mj").x == "energy, mJ"
    assert pareto.table(family)["energy, mJ"].tolist() == [f"{2.5 * m:.3g}" for m in sorted(family["mflops"])]


def test_holdout_accuracy_is_the_best_of_each_model():
    """a0 has 82 of 80 and 82; a model that was not fine-tuned on a dataset has NaN."""
    accuracy = transfer.holdout(TRANSFER)
    assert list(accuracy) == ["model", "mflops", "greek", "digits"]
    assert accuracy["greek"].tolist() == [82, 91] and np.isnan(accuracy["digits"][0]) and accuracy["digits"][1] == 97


def test_transfer_table_states_the_test_accuracy_of_the_selected_model():
    """Each dataset has one test accuracy, at the selected model."""
    table = transfer.table(TRANSFER)
    assert table["greek, %"].tolist() == ["82.0", "91.0 → test 89.5"] and table["digits, %"].tolist() == ["–", "97.0 → test 96.5"]


def test_transfer_chart_has_a_star_for_the_selected_model():
    """The star of greek is at (4 MFLOPs, 89.5 %)."""
    line = named(transfer.chart(TRANSFER), "greek, selected")
    assert (line.x.tolist(), line.y.tolist(), line.marker) == ([4], [89.5], "star")


def test_transfer_without_a_selected_model_or_its_test_raises():
    """The error names a dataset without a selected model, and one whose selected model has no test accuracy."""
    with pytest.raises(ValueError, match="'digits' has no row marked best"):
        transfer.selected(TRANSFER.assign(best=TRANSFER["best"] & (TRANSFER["set"] == "greek")))
    with pytest.raises(ValueError, match=r"'greek'.*no test accuracy"):
        transfer.selected(TRANSFER.assign(top1_test=np.nan))

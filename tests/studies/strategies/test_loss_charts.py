"""AlphaNet's Figures 9 and 10: which runs are in which, and numpy's quantiles."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nas.plots import style
from studies.strategies.charts import loss_charts
from studies.strategies.comparisons import KL, Ablation, Setting, figures_of, runs_of

EDGES, SEEDS = (0.0, 1.0, 2.0), (0, 1)
SETTINGS = (Setting("alpha_min", "-1", ("alpha_min -2", "alpha_min -0.5")), Setting("clip", "5", ("clip 2",)))
NAMES = (KL, "adaptive", "alpha_min -2", "alpha_min -0.5", "clip 2")


def synthetic() -> Ablation:
    """20 networks a loss and seed, each cost with another accuracy, then one of a search."""
    rng, cost = np.random.default_rng(0), np.linspace(0.05, 1.95, 21)
    runs = [
        pd.DataFrame({"strategy": name, "seed": seed, "mflops": cost, "top1": rng.uniform(20, 80, 21), "round": [0] * 20 + [1]})
        for name in NAMES
        for seed in SEEDS
    ]
    finals = [(name, seed, 0.5, 50.0, 80.0) for name in NAMES for seed in SEEDS]
    columns = ["strategy", "seed", "hypervolume", "top1_low", "top1_best"]
    return Ablation("adaptive", SETTINGS, pd.concat(runs, ignore_index=True), pd.DataFrame(finals, columns=columns))


FOUND = synthetic()


def test_alphas_are_one_figure_and_all_else_the_other():
    """KL and the base are in both; a loss is in that of the setting it differs in, all its runs with it."""
    alphas, rest = figures_of(FOUND)
    assert (alphas, rest) == ("alphanet_9", "alphanet_10")
    drawn = [runs_of(FOUND, settings)["strategy"].unique().tolist() for settings in figures_of(FOUND).values()]
    assert drawn == [list(NAMES[:4]), [KL, "adaptive", "clip 2"]]
    assert len(runs_of(FOUND, ())) == 2 * 2 * 21


def test_a_chart_a_bucket_and_a_row_a_loss():
    """KL, the base, then setting by setting; the line is the base's median, averaged over the seeds, of the networks of round 0."""
    charts = loss_charts(FOUND, EDGES, "alphanet_9")
    assert [[b.name for b in chart.boxes] for chart in charts] == [list(NAMES[:4])] * 2
    assert [chart.title for chart in charts] == ["0.00–1.00 MFLOPs", "1.00–2.00 MFLOPs"]
    runs = FOUND.runs[FOUND.runs["round"] == 0]
    for expensive, chart in enumerate(charts):
        for name, box in zip(NAMES, chart.boxes):
            mine = runs[(runs["strategy"] == name) & ((runs["mflops"] >= 1) == bool(expensive))]
            numbers = [np.percentile(rows["top1"], [0, 25, 50, 75, 100]) for _, rows in mine.groupby("seed")]
            assert box.numbers == pytest.approx(np.mean(numbers, axis=0).tolist())
        assert chart.reference == chart.boxes[1].numbers[2]


def test_a_setting_has_its_colour_in_both_figures():
    """Values of a setting look alike, settings differ, and neither KL nor the base looks like any of them."""
    colours = {b.name: b.colour for figure in figures_of(FOUND) for b in loss_charts(FOUND, EDGES, figure)[0].boxes}
    assert colours["alpha_min -2"] == colours["alpha_min -0.5"] and len(set(colours.values())) == 4
    five = replace(FOUND, settings=tuple(Setting(str(i), "", (str(i),)) for i in range(5)), runs=FOUND.runs.replace("clip 2", "4"))
    *_, last = loss_charts(five, EDGES, "alphanet_10")[0].boxes
    assert last.name == "4" and last.colour not in {style.BLUE, style.INK}


def test_charts_of_both_figures_have_ids_of_their_own():
    """They stand on one page, beside those of the strategies."""
    keys = [chart.key for figure in figures_of(FOUND) for chart in loss_charts(FOUND, EDGES, figure)]
    assert keys == ["alphanet_9-0", "alphanet_9-1", "alphanet_10-0", "alphanet_10-1"]


def test_a_single_loss_can_be_drawn():
    """Without settings both figures have KL and the base."""
    single = replace(FOUND, settings=(), runs=FOUND.runs[FOUND.runs["strategy"].isin(NAMES[:2])])
    assert [[b.name for b in loss_charts(single, EDGES, f)[0].boxes] for f in figures_of(single)] == [[KL, "adaptive"]] * 2

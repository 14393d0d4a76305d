"""The comparison's report: what other stages wrote, put together by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nas.cost import flops
from nas.data.splits import Parts
from nas.reports import comparison, deployments
from nas.reports.claims import Claim
from nas.stages.strategies import common, report

SHIPPED = common.read(common.FILE.resolve())
S = replace(SHIPPED, strategies=("uniform", "bestup-3-loss"), seeds=(0, 2))
TOP1 = {("uniform", 0): 60.0, ("uniform", 2): 64.0, ("bestup-3-loss", 0): 61.0, ("bestup-3-loss", 2): 67.0}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Of all stages, a few rows each."""
    monkeypatch.setattr(common, "OUTPUTS", tmp_path)

    def evaluated(folder, top1: float) -> None:
        folder.mkdir(parents=True)
        rows = {"resolution": [12, 16, 20], "mflops": [0.1, 0.5, 0.9], "top1": [top1, top1 + 5, top1 + 10], "round": [0, 0, 1]}
        pd.DataFrame(rows).to_parquet(folder / "evaluated.parquet")

    for (strategy, seed), top1 in TOP1.items():
        folder = tmp_path / "train" / f"{strategy}-{seed}"
        evaluated(folder, top1)
        figures = {"hypervolume": top1 / 100, "top1_low": top1, "top1_best": top1 + 10, "evaluations": 3}
        (folder / "metrics.json").write_text(json.dumps(figures))
    for seed in S.seeds:
        evaluated(tmp_path / "wide" / str(seed), 50.0 + seed)
        for stage in ("pretrain", "continued", "scratch"):
            (tmp_path / stage / str(seed)).mkdir(parents=True)
        early = pd.DataFrame({"resolution": [12, 16, 12, 20], "mflops": [0.1, 0.5, 0.2, 0.9], "top1": [40.0, 50.0, 42.0, 55.0]})
        early = early.assign(part=["fit", "test", "test", "test"], predicted=[41.0, 49.0, 44.0, 53.0 + seed])
        early.to_parquet(tmp_path / "pretrain" / str(seed) / "measured.parquet")
        final = pd.DataFrame({"mflops": early["mflops"], "top1": [60.0, 70.0, 62.0, 75.0 + seed]})
        final.to_parquet(tmp_path / "continued" / str(seed) / "measured.parquet")
        members = f"member,mflops,top1_inherited,top1_alone\na0,0.1,{60 + seed},61\na1,0.9,70,72\n"
        (tmp_path / "scratch" / str(seed) / "members.csv").write_text(members)
    return tmp_path


def test_all_runs_are_read(outputs):
    """2 strategies x 2 seeds x 3 rows, without genes, in the order of the parameters."""
    runs = report.all_runs(S)
    assert list(runs.columns) == ["mflops", "top1", "round", "strategy", "seed"] and len(runs) == 12
    assert runs.groupby(["strategy", "seed"])["top1"].min().to_dict() == TOP1
    assert list(runs["strategy"].unique()) == list(S.strategies)


def test_final_figures_are_those_that_the_runs_wrote(outputs):
    """A row a run, the three figures that strategies are compared by and no other."""
    finals = report.final_figures(S)
    assert list(finals.columns) == ["strategy", "seed", "hypervolume", "top1_low", "top1_best"]
    assert dict(zip(zip(finals["strategy"], finals["seed"]), finals["top1_low"])) == TOP1
    assert finals["hypervolume"].tolist() == [0.60, 0.64, 0.61, 0.67]


def test_the_summary_by_hand(outputs):
    """60 and 64: mean 62, deviation sqrt(8); 61 and 67: 64 and sqrt(18), with n - 1; strategies in their order."""
    summary = report.over_seeds(report.final_figures(S))
    assert summary["strategy"].tolist() == ["uniform", "bestup-3-loss"] and summary["seeds"].tolist() == [2, 2]
    assert summary["top1_low_mean"].tolist() == [62, 64]
    assert summary["top1_low_std"].tolist() == pytest.approx([8**0.5, 18**0.5])
    assert summary["hypervolume_std"].tolist() == pytest.approx([0.08**0.5 / 10, 0.18**0.5 / 10])


def test_the_summary_as_json(outputs):
    """Per strategy the seeds, and mean and deviation of three figures, rounded to six digits; it can be read back."""
    found = json.loads(json.dumps(report.nested(report.over_seeds(report.final_figures(S)))))
    assert found["uniform"] == {
        "seeds": 2,
        "hypervolume": {"mean": 0.62, "std": 0.028284},
        "top1_low": {"mean": 62.0, "std": 2.828427},
        "top1_best": {"mean": 72.0, "std": 2.828427},
    }
    assert list(found) == list(S.strategies)


def test_one_seed_has_no_deviation(outputs):
    """It is null in JSON, not NaN, which is none."""
    found = report.nested(report.over_seeds(report.final_figures(replace(S, seeds=(0,)))))
    assert found["bestup-3-loss"]["top1_best"] == {"mean": 71.0, "std": None}
    json.dumps(found, allow_nan=False)


def test_early_and_final_accuracies_side_by_side(outputs):
    """Of the same sub-networks in the same order, each seed its own."""
    found = report.ranked(2)
    assert list(found.columns) == ["mflops", "part", "predicted", "early", "final"]
    assert found.iloc[3].tolist() == [0.9, "test", 55.0, 55.0, 77.0] and found.iloc[0].tolist() == [0.1, "fit", 41.0, 40.0, 60.0]


def test_mean_trials_by_hand():
    """Over the two targets that the pool met: (10 + 30) / 2, (2 + 4) / 2, 1; the third, of 1000 trials, does not count."""
    study = pd.DataFrame({"target": [1.0, 2.0, 3.0], "uniform": [10.0, 30.0, 1000.0], "paper_mean": [2, 4, np.nan], "exact": 1.0})
    study["paper_std"] = [1, 1, np.nan]
    found = report.mean_trials([study, study.assign(paper_mean=[4.0, 8.0, 12.0], paper_std=1.0)], (0, 2))
    assert found.to_dict("list") == {"seed": [0, 2], "uniform": [20, pytest.approx(1040 / 3)], "proposal": [3, 8], "exact": [1, 1]}


def test_two_spaces_are_those_of_uniform_sampling(outputs):
    """The first strategy's runs on the comparison's space, and those of stage wide; all evaluated counts."""
    found = report.two_spaces(S, report.all_runs(S))
    assert list(found.columns) == ["space", "seed", "mflops", "top1"] and len(found) == 12
    best = found.groupby(["space", "seed"])["top1"].max().to_dict()
    assert best == {("glyphs_small", 0): 70, ("glyphs_small", 2): 74, ("glyphs_wide", 0): 60, ("glyphs_wide", 2): 62}


def test_members_of_all_seeds(outputs):
    """Two a seed, with their seed."""
    found = report.scratch(S)
    assert found[["seed", "member", "top1_inherited"]].to_numpy().tolist() == [[0, "a0", 60], [0, "a1", 70], [2, "a0", 62], [2, "a1", 70]]


def test_costs_of_methods_by_hand():
    """4 epochs of 4 networks; 3 candidates x 2 sampled a third each; 2 epochs of pretraining for a predictor; 4 N alone."""
    s = replace(
        S,
        strategies=("uniform", "bestup-3-loss-flat", "worstup-50-acc", "bestup-1m-acc"),
        train=SHIPPED.train.model_copy(update={"epochs": 4}),
        pretrain=SHIPPED.pretrain.model_copy(update={"epochs": 2}),
        recipe=SHIPPED.recipe.model_copy(update={"sampled": 2}),
    )
    found = report.methods(s)
    costs = {m.name: (m.fixed, m.each) for m in found if m.source == "here"}
    assert costs == {
        "uniform": (16, 0),
        "bestup-3-loss-flat": (16 + 4 * 3 * 2 / 3, 0),
        "worstup-50-acc": (16 + 2 * 4, 0),
        "bestup-1m-acc": (16 + 2 * 4, 0),
        "each network alone": (0, 4),
    }
    assert [m for m in found if m.source != "here"] == list(deployments.PUBLISHED)


def test_the_data_of_each_figure(outputs):
    """A table for each of the page's figures; Figure 6 has a column a strategy, gains over uniform and their deviation by hand."""
    runs, by_seed = report.all_runs(S), {seed: report.ranked(seed) for seed in S.seeds}
    trials = pd.DataFrame({"target": [1.0], "uniform": 9.0, "paper_mean": 3.0, "paper_std": 1.0, "exact": 1.0})
    claims = [Claim("k", "s", "t", "j", ())]
    summary = report.over_seeds(report.final_figures(S))
    spaces = report.two_spaces(S, runs)
    found = comparison.Findings(runs, (0.0, 0.4, 1.0), summary, by_seed, trials, spaces, report.methods(S), report.scratch(S), claims)
    tables = report.tables(found)
    assert set(tables) == {*comparison.charts(found), "ranks", "claims"}
    gains = tables["figure_6"]
    assert list(gains.columns) == ["low", "high", "bestup-3-loss", "uniform", "bestup-3-loss_sd", "uniform_sd"]
    assert gains[["low", "high", "uniform"]].to_numpy().tolist() == [[0, 0.4, 0], [0.4, 1, 0]]
    assert gains["bestup-3-loss"].tolist() == [2, 2]  # 61 - 60 and 67 - 64
    assert gains["bestup-3-loss_sd"].tolist() == pytest.approx([2**0.5, 2**0.5])
    assert tables["inherited"]["difference"].tolist() == [-1, -2, 1, -2]
    assert len(tables["figure_4"]) == 3 * 2 * 3 and len(tables["ranks"]) == 10  # of two seeds 7a and 7b are one pair


def test_facts_are_those_of_the_run(outputs, easy_set, tiny_space):
    """Pictures, steps (4 epochs of 46 // 20 batches), ranges of cost and evaluations."""
    data = replace(easy_set, parts=Parts(np.repeat(["train", "predictor", "search", "test"], [40, 6, 20, 30])))
    s = replace(
        S,
        space=tiny_space,
        train=SHIPPED.train.model_copy(update={"epochs": 4}),
        recipe=SHIPPED.recipe.model_copy(update={"batch": 20}),
    )
    table = flops.table(tiny_space, 3)
    wide = SimpleNamespace(smallest=0.25, largest=2.5)
    found = report.facts(s, data, table, wide, report.all_runs(s))
    assert found["pictures"] == "46 to train on, 20 to measure on, 30 for testing"
    assert found["steps"] == "8 (batches of 20)" and found["evaluations"] == "3 a strategy and seed"
    assert found["space"] == f"tiny: 2,304 architectures, {table.smallest:.3f} to {table.largest:.3f} MFLOPs"
    assert found["wide space"].endswith("0.250 to 2.500 MFLOPs") and found["data"] == "Easy, 3 classes"


def test_evaluations_that_differ_are_told(outputs, easy_set):
    """A search that found too few new architectures: from the fewest to the most."""
    runs = report.all_runs(S).iloc[:-1]
    data = replace(easy_set, parts=Parts(np.repeat(["train", "predictor", "search", "test"], [64, 6, 20, 6])))
    table = flops.table(S.space, 3)
    assert report.facts(S, data, table, table, runs)["evaluations"].startswith("2 to 3")


def test_shares_of_the_cost_targets_by_counting(tiny_space, tiny_rows):
    """All 2304 architectures, costs rounded to 0.03 MFLOPs, counted in the first and the last of five buckets; flat: each target once."""
    table = flops.table(tiny_space, 3)
    rounded = np.floor(table.costs(tiny_rows) / 0.03 + 0.5) * 0.03
    bounds = np.linspace(table.smallest, table.largest, 6)

    def share(targets: np.ndarray) -> str:
        low, high = np.mean(targets < bounds[1]), np.mean(targets >= bounds[4])
        return f"{low:.1%} in the cheapest bucket, {high:.1%} in the dearest"

    assert report.targets(table, S) == f"from the prior {share(rounded)}; flat {share(np.unique(rounded.round(6)))}"

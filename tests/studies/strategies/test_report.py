"""The comparison's report: what other stages wrote, put together by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from nas.cost import flops
from nas.data.splits import Parts
from nas.training.losses import KL
from studies.claims import Claim
from studies.strategies import comparisons, config, deployments, html_page, report, results

SHIPPED = config.read(config.FILE.resolve())
DISTILLATIONS = ("adaptive", "clip-2", "alpha-min-half", "clip-20")
S = replace(SHIPPED, strategies=("uniform", "bestup-3-loss"), distillations=DISTILLATIONS, seeds=(0, 2))
TOP1 = {("uniform", 0): 60.0, ("uniform", 2): 64.0, ("bestup-3-loss", 0): 61.0, ("bestup-3-loss", 2): 67.0}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Of all stages, a few rows each."""
    monkeypatch.setattr(config.Pipeline, "outputs", tmp_path)

    def evaluated(folder, top1: float) -> None:
        folder.mkdir(parents=True)
        rows = {"resolution": [12, 16, 20], "mflops": [0.1, 0.5, 0.9], "top1": [top1, top1 + 5, top1 + 10], "round": [0, 0, 1]}
        pd.DataFrame(rows).to_parquet(folder / "evaluated.parquet")

    trained = {f"train/{strategy}-{seed}": top1 for (strategy, seed), top1 in TOP1.items()}
    distilled = {f"distill/{name}-{seed}": 40.0 + 10 * i + seed for i, name in enumerate(DISTILLATIONS) for seed in S.seeds}
    for folder, top1 in {tmp_path / name: top1 for name, top1 in (trained | distilled).items()}.items():
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
        models = f"model,mflops,top1_inherited,top1_scratch\na0,0.1,{60 + seed},61\na1,0.9,70,72\n"
        (tmp_path / "scratch" / str(seed) / "models.csv").write_text(models)
    return tmp_path


@pytest.fixture
def runs(outputs) -> pd.DataFrame:
    """Of the strategies."""
    return results.all_runs("train", S.strategies, S.seeds)


@pytest.fixture
def finals(outputs) -> pd.DataFrame:
    """Of the strategies."""
    return results.final_metrics("train", S.strategies, S.seeds)


def test_all_runs_are_read(runs):
    """2 strategies x 2 seeds x 3 rows, without genes, in the order of the parameters."""
    assert list(runs.columns) == ["mflops", "top1", "round", "strategy", "seed"] and len(runs) == 12
    assert runs.groupby(["strategy", "seed"])["top1"].min().to_dict() == TOP1
    assert list(runs["strategy"].unique()) == list(S.strategies)


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("train/bestup-3-loss-2/metrics.json", "train@bestup-3-loss-2"),
        ("train/uniform-0/evaluated.parquet", "train@uniform-0"),
        ("distill/clip-2-2/evaluated.parquet", "distill@clip-2-2"),
        ("distill/adaptive-0/metrics.json", "distill@adaptive-0"),
        ("wide/2/evaluated.parquet", "wide@2"),
        ("pretrain/0/measured.parquet", "pretrain@0"),
        ("continued/2/measured.parquet", "continued@2"),
        ("scratch/0/models.csv", "scratch@0"),
    ],
)
def test_a_file_that_is_missing_is_named_with_what_makes_it(outputs, path, stage):
    """Each of those that other stages write."""
    (outputs / path).unlink()
    with pytest.raises(FileNotFoundError, match=f"{path} is missing; `dvc repro studies/strategies/dvc.yaml:{stage}` makes it"):
        runs = results.all_runs("train", S.strategies, S.seeds)
        results.ablation(S, runs, results.final_metrics("train", S.strategies, S.seeds))
        results.two_spaces(S, runs)
        results.scratch_models(S)
        for seed in S.seeds:
            results.predictor_accuracies(seed)


def test_final_figures_are_those_that_the_runs_wrote(finals):
    """A row a run, the three figures that strategies are compared by and no other."""
    assert list(finals.columns) == ["strategy", "seed", "hypervolume", "top1_low", "top1_best"]
    assert dict(zip(zip(finals["strategy"], finals["seed"]), finals["top1_low"])) == TOP1
    assert finals["hypervolume"].tolist() == [0.60, 0.64, 0.61, 0.67]


def test_losses_are_called_by_what_differs(runs, finals):
    """KL with uniform's runs, the base by its name, then setting by setting in the order of the parameters; values as in words."""
    found = results.ablation(S, runs, finals)
    assert found.base == "adaptive"
    assert found.settings == (
        comparisons.Setting("clip", "5", ("clip 2", "clip 20")),
        comparisons.Setting("alpha_min", "-1", ("alpha_min -0.5",)),
    )
    lowest = {"KL": 60, "adaptive": 40, "clip 2": 50, "clip 20": 70, "alpha_min -0.5": 60}
    assert found.runs[found.runs["seed"] == 0].groupby("strategy", sort=False)["top1"].min().to_dict() == lowest
    assert found.finals["strategy"].tolist() == [name for name in lowest for _ in S.seeds] == found.runs["strategy"][::3].tolist()
    assert found.finals["top1_low"].tolist() == [60, 64, 40, 42, 50, 52, 70, 72, 60, 62]
    assert set(runs["strategy"]) == set(finals["strategy"]) == set(S.strategies)  # untouched


@pytest.mark.parametrize(
    ("distillation_loss", "name"),
    [
        (KL(), "KL"),
        (KL(temperature=2.0), "uniform"),
        (KL(weight=0.5), "uniform"),
        (SHIPPED.losses["clip-2"], "uniform"),
    ],
)
def test_uniforms_loss_is_called_kl_only_where_it_is_just_that(runs, finals, distillation_loss, name):
    """With another temperature, or another divergence, the claim about KL is not judged by it."""
    s = replace(S, recipe=S.recipe.model_copy(update={"distillation": distillation_loss}))
    assert results.ablation(s, runs, finals).finals["strategy"].iloc[0] == name


def test_losses_in_words():
    """All of the two that are compared, of the others what differs; no clip is none."""
    free = SHIPPED.losses["adaptive"].model_copy(update={"clip": None})
    s = replace(S, distillations=("adaptive", "temperature-2", "free"), losses=S.losses | {"free": free})
    assert report.losses_text(s) == (
        "strategies: kl, temperature 1, weight 1; adaptive: adaptive-alpha, temperature 1, weight 1, alpha_min -1, alpha_max 1, clip 5; "
        "and that with one change: temperature 2, clip none"
    )
    assert report.losses_text(replace(S, distillations=("adaptive",))).endswith("alpha_max 1, clip 5")


def test_the_summary_by_hand(finals):
    """60 and 64: mean 62, deviation sqrt(8); 61 and 67: 64 and sqrt(18), with n - 1; strategies in their order."""
    summary = results.over_seeds(finals)
    assert summary["strategy"].tolist() == ["uniform", "bestup-3-loss"] and summary["seeds"].tolist() == [2, 2]
    assert summary["top1_low_mean"].tolist() == [62, 64]
    assert summary["top1_low_std"].tolist() == pytest.approx([8**0.5, 18**0.5])
    assert summary["hypervolume_std"].tolist() == pytest.approx([0.08**0.5 / 10, 0.18**0.5 / 10])


def test_means_for_mlflow(finals):
    """A figure a strategy: 0.62 of 0.60 and 0.64, 72 of 70 and 74."""
    found = results.summary_metrics(results.over_seeds(finals))
    assert list(found)[:3] == ["uniform/hypervolume", "uniform/top1_low", "uniform/top1_best"] and len(found) == 6
    assert list(found.values())[:3] == pytest.approx([0.62, 62, 72])


def test_the_summary_as_json(finals):
    """Per strategy the seeds, and mean and deviation of three figures, rounded to six digits; it can be read back."""
    found = json.loads(json.dumps(results.summary_json(results.over_seeds(finals))))
    assert found["uniform"] == {
        "seeds": 2,
        "hypervolume": {"mean": 0.62, "std": 0.028284},
        "top1_low": {"mean": 62.0, "std": 2.828427},
        "top1_best": {"mean": 72.0, "std": 2.828427},
    }
    assert list(found) == list(S.strategies)


def test_one_seed_has_no_deviation(outputs):
    """It is null in JSON, not NaN, which is none."""
    found = results.summary_json(results.over_seeds(results.final_metrics("train", S.strategies, (0,))))
    assert found["bestup-3-loss"]["top1_best"] == {"mean": 71.0, "std": None}
    json.dumps(found, allow_nan=False)


def test_early_and_final_accuracies_side_by_side(outputs):
    """Of the same sub-networks in the same order, each seed its own."""
    found = results.predictor_accuracies(2)
    assert list(found.columns) == ["mflops", "part", "predicted", "early", "final"]
    assert found.iloc[3].tolist() == [0.9, "test", 55.0, 55.0, 77.0] and found.iloc[0].tolist() == [0.1, "fit", 41.0, 40.0, 60.0]


def test_mean_trials_by_hand():
    """Over the two targets that the pool met: (10 + 30) / 2, (2 + 4) / 2, 1; the third, of 1000 trials, does not count."""
    study = pd.DataFrame({"target": [1.0, 2.0, 3.0], "uniform": [10.0, 30.0, 1000.0], "paper_mean": [2, 4, np.nan], "exact": 1.0})
    study["paper_std"] = [1, 1, np.nan]
    found = results.mean_trials([study, study.assign(paper_mean=[4.0, 8.0, 12.0], paper_std=1.0)], (0, 2))
    assert found.to_dict("list") == {"seed": [0, 2], "uniform": [20, pytest.approx(1040 / 3)], "proposal": [3, 8], "exact": [1, 1]}


def test_two_spaces_are_those_of_uniform_sampling(runs):
    """The first strategy's runs on the comparison's space, and those of stage wide; all evaluated counts."""
    found = results.two_spaces(S, runs)
    assert list(found.columns) == ["space", "seed", "mflops", "top1"] and len(found) == 12
    best = found.groupby(["space", "seed"])["top1"].max().to_dict()
    assert best == {("glyphs_small", 0): 70, ("glyphs_small", 2): 74, ("glyphs_wide", 0): 60, ("glyphs_wide", 2): 62}


def test_models_of_all_seeds(outputs):
    """Two a seed, with their seed."""
    found = results.scratch_models(S)
    assert found[["seed", "model", "top1_inherited"]].to_numpy().tolist() == [[0, "a0", 60], [0, "a1", 70], [2, "a0", 62], [2, "a1", 70]]


def test_costs_of_methods_by_hand():
    """4 epochs of 4 networks; 3 candidates x 2 sampled a third each; 2 epochs of pretraining for a predictor; 4 N from scratch."""
    s = replace(
        S,
        strategies=("uniform", "bestup-3-loss-flat", "worstup-50-acc", "bestup-1m-acc"),
        train=SHIPPED.train.model_copy(update={"epochs": 4}),
        pretrain=SHIPPED.pretrain.model_copy(update={"epochs": 2}),
        recipe=SHIPPED.recipe.model_copy(update={"sampled": 2}),
    )
    found = results.training_costs(s)
    costs = {m.name: (m.fixed, m.per_network) for m in found if m.source == "here"}
    assert costs == {
        "uniform": (16, 0),
        "bestup-3-loss-flat": (16 + 4 * 3 * 2 / 3, 0),
        "worstup-50-acc": (16 + 2 * 4, 0),
        "bestup-1m-acc": (16 + 2 * 4, 0),
        "each network from scratch": (0, 4),
    }
    assert [m for m in found if m.source != "here"] == list(deployments.PUBLISHED)


def test_the_data_of_each_figure(runs, finals):
    """A table for each of the page's figures; Figure 6 has a column a strategy, gains over uniform and their deviation by hand."""
    by_seed, losses = {seed: results.predictor_accuracies(seed) for seed in S.seeds}, results.ablation(S, runs, finals)
    trials = pd.DataFrame({"target": [1.0], "uniform": 9.0, "paper_mean": 3.0, "paper_std": 1.0, "exact": 1.0})
    claims = [Claim("k", "s", "t", "j", ())]
    summary, spaces, methods, models = (
        results.over_seeds(finals),
        results.two_spaces(S, runs),
        results.training_costs(S),
        results.scratch_models(S),
    )
    edges, levels = (0.0, 0.4, 1.0), results.over_seeds(losses.finals)
    found = html_page.Content(runs, edges, summary, by_seed, trials, spaces, methods, models, losses, levels, claims)
    tables = report.tables(found)
    assert set(tables) == {*html_page.figures(found), "ranks", "claims"}
    gains = tables["figure_6"]
    assert list(gains.columns) == ["low", "high", "bestup-3-loss", "uniform", "bestup-3-loss_sd", "uniform_sd"]
    assert gains[["low", "high", "uniform"]].to_numpy().tolist() == [[0, 0.4, 0], [0.4, 1, 0]]
    assert gains["bestup-3-loss"].tolist() == [2, 2]  # 61 - 60 and 67 - 64
    assert gains["bestup-3-loss_sd"].tolist() == pytest.approx([2**0.5, 2**0.5])
    assert tables["inherited"]["difference"].tolist() == [-1, -2, 1, -2]
    assert list(tables["alphanet_9"].columns[-3:]) == ["KL", "adaptive", "alpha_min -0.5"] and "loss" in tables["alphanet_9"]
    clips = tables["alphanet_10"].query("low == 0")
    assert clips[["KL", "adaptive", "clip 2", "clip 20"]].max().tolist() == [64, 42, 52, 72]
    assert len(tables["figure_4"]) == 3 * 2 * 3 and len(tables["ranks"]) == 10  # of two seeds 7a and 7b are one pair


def test_facts_are_those_of_the_run(runs, easy_set, tiny_space):
    """Images, steps (4 epochs of 46 // 20 batches), ranges of cost and evaluations."""
    data = replace(easy_set, parts=Parts(np.repeat(["train", "predictor", "search", "test"], [40, 6, 20, 30])))
    s = replace(
        S,
        space=tiny_space,
        train=SHIPPED.train.model_copy(update={"epochs": 4}),
        recipe=SHIPPED.recipe.model_copy(update={"batch": 20}),
    )
    table = flops.table(tiny_space, 3)
    wide = SimpleNamespace(smallest=0.25, largest=2.5)
    found = report.facts(s, data, table, wide, runs)
    assert found["images"] == "46 for training, 20 for evaluation, 30 for testing"
    assert found["steps"] == "8 (batches of 20)" and found["evaluations"] == "3 per strategy and seed"
    assert found["space"] == f"tiny: 2,304 architectures, {table.smallest:.3f} to {table.largest:.3f} MFLOPs"
    assert found["wide space"].endswith("0.250 to 2.500 MFLOPs") and found["data"] == "Easy, 3 classes"


def test_a_range_of_evaluations_is_reported(runs, easy_set):
    """A search that found too few new architectures: from the fewest to the most."""
    data = replace(easy_set, parts=Parts(np.repeat(["train", "predictor", "search", "test"], [64, 6, 20, 6])))
    table = flops.table(S.space, 3)
    assert report.facts(S, data, table, table, runs.iloc[:-1])["evaluations"].startswith("2 to 3")


def test_shares_of_the_cost_targets_by_counting(tiny_space, tiny_rows):
    """All 2304 architectures, costs rounded to 0.03 MFLOPs, counted in the first and the last of five buckets; flat: each target once."""
    table = flops.table(tiny_space, 3)
    rounded = np.floor(table.costs(tiny_rows) / 0.03 + 0.5) * 0.03
    bounds = np.linspace(table.smallest, table.largest, 6)

    def share(targets: np.ndarray) -> str:
        low, high = np.mean(targets < bounds[1]), np.mean(targets >= bounds[4])
        return f"{low:.1%} in the cheapest bucket, {high:.1%} in the most expensive"

    assert report.target_shares(table, S) == f"from the prior {share(rounded)}; flat {share(np.unique(rounded.round(6)))}"

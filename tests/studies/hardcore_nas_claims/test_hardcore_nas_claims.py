"""The study of HardCoRe-NAS's claims: parameters, networks, verdicts by hand, the page."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.data.splits import Parts
from nas.differentiable.hardcore_nas.frank_wolfe import begin
from nas.differentiable.hardcore_nas.one_shot import OneShot
from nas.differentiable.hardcore_nas.relaxed import max_entropy_start
from nas.models.blocks import RowNetwork
from nas.runtime import presets
from nas.runtime.checkpoint import Checkpoint, save_weights
from nas.runtime.params import ParamsError
from nas.spaces import FOLDER, hardcore_nas
from nas.spaces.hardcore_nas import Arch
from nas.tracking.runs import SilentRun
from studies.claims import INCONCLUSIVE, NOT_RUN, NOT_SUPPORTED, SUPPORTED, claim_rows
from studies.hardcore_nas_claims import claims, config, report, starts
from studies.hardcore_nas_claims.claims import Results, all_claims
from tests.stages.test_pipeline import ROOT

GLYPHS = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")
SMALL = hardcore_nas.Space.model_validate(
    {**GLYPHS.model_dump(), "name": "small", "resolution": 8, "stages": GLYPHS.model_dump()["stages"][:2]}
)


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """What is varied, to be changed; HardCoRe-NAS's own parameters are the shipped ones."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copy(config.PIPELINE.parameters, tmp_path / "claims.yaml"))


def test_the_papers_epochs_are_the_usual_ones(file):
    """10 and 50, as in Figure 8."""
    assert config.read(file).tuning.epochs == (10, 50)


def test_the_smoke_preset_fits_that_of_hardcore_nas(file, tmp_path):
    """Two targets in both."""
    own = Path(shutil.copy(config.hardcore_nas.PIPELINE.parameters, tmp_path / "own.yaml"))
    presets.apply("smoke", own, ROOT / config.hardcore_nas.PIPELINE.folder / "presets")
    found = yaml.safe_load(file.read_text())
    found["tuning"]["targets"] = ["a", "c"]
    file.write_text(yaml.safe_dump(found))
    with pytest.raises(
        ParamsError, match=r"tuning\.targets: 'c' is not in \['a', 'b'\], a letter per entry of .*own\.yaml: search\.targets"
    ):
        config.read(file, own)
    presets.apply("smoke", file, ROOT / config.PIPELINE.folder / "presets")
    assert len(config.read(file, own).tuning.targets) == len(config.read(file, own).hardcore_nas.search.targets) == 2


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("tuning", {"targets": ["a"], "epochs": [50, 10], "scratch": 5}, "tuning.epochs: they must ascend"),
        ("tuning", {"targets": ["a", "a"], "epochs": [1, 2], "scratch": 5}, "tuning.targets: they must ascend"),
        ("starts", {"seeds": [0], "shares": [0.5, 1]}, "starts.shares: 0, the fastest network, must be among them"),
        ("starts", {"seeds": [0], "shares": [0, 0.25]}, r"and 0\.25, which they are compared with .*search\.start"),
        ("starts", {"seeds": [0], "shares": [0, 1.5]}, r"starts\.shares"),
        ("start", {}, "start is not a known key"),
    ],
)
def test_errors_in_the_parameters_are_named(file, section, value, message):
    """Before any stage runs, with the key."""
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {section: value}))
    with pytest.raises(ParamsError, match=message):
        config.read(file)


def test_loss_and_top1_of_a_network():
    """Two images of two classes, logits by hand: one right, one wrong by ln 3."""
    logits, labels = torch.tensor([[np.log(3), 0.0], [np.log(3), 0.0]]), torch.tensor([0, 1])
    loss, right = starts.loss_and_top1(nn.Identity(), [(logits[:1], labels[:1]), (logits[1:], labels[1:])])
    assert loss == pytest.approx(-(np.log(0.75) + np.log(0.25)) / 2) and right == 50


def test_architectures_have_names_of_their_own():
    """Depths and numbers of two digits are distinguished."""
    archs = [Arch(((1, 1), (2,))), Arch(((11,), (2,))), Arch(((1,), (1, 2))), Arch(((1,), (12,)))]
    assert [starts.arch_name(arch) for arch in archs] == ["1-1_2", "11_2", "1_1-2", "1_12"]


def test_a_programme_is_timed_and_changes_nothing():
    """Some time is found, and the point is what it was."""
    shape = (len(SMALL.stages), SMALL.blocks, len(SMALL.configurations))
    latency = ExpectedLatency(1.0, np.random.default_rng(0).uniform(0.2, 2, shape), SMALL.offered)
    state = begin(max_entropy_start(latency, latency.range_ms[1], 0.5))
    alpha = state.relaxed.alpha.copy()
    assert starts.programme_ms(state, latency, latency.range_ms[1]) > 0 and np.array_equal(state.relaxed.alpha, alpha)


@pytest.fixture
def networks(file, easy_set, tmp_path, monkeypatch):
    """Of a small one-shot model with random weights, one epoch of everything."""
    s = config.read(file).hardcore_nas
    torch.manual_seed(0)
    model = OneShot(SMALL, len(easy_set.classes))
    save_weights(tmp_path / "weights.safetensors", model)
    save_weights(tmp_path / "teacher.safetensors", RowNetwork(SMALL.plan(SMALL.largest()), len(easy_set.classes)))
    monkeypatch.setattr(config, "WEIGHTS", tmp_path / "weights.safetensors")
    monkeypatch.setattr(config, "TEACHER", tmp_path / "teacher.safetensors")
    parts = Parts(np.repeat(["train", "test"], [60, 36]))
    monkeypatch.setattr(config, "open_dataset", lambda folder: replace(easy_set, parts=parts))
    small = s.tune.model_copy(update={key: getattr(s.tune, key).model_copy(update={"batch": 20}) for key in ("tuning", "scratch")})
    with Checkpoint(tmp_path, "tuning", "same") as checkpoint:
        yield config.Networks(replace(s, space=SMALL, tune=small), checkpoint, SilentRun())


def test_networks_are_trained_for_the_requested_epochs(networks):
    """Each number of epochs is a training of its own from the same weights, done once; initial weights differ by the name."""
    arch = SMALL.random(np.random.default_rng(0))
    start = {k: v.clone() for k, v in networks.inherited(arch).state_dict().items()}
    (_, one), (_, two), (again, same) = (networks.tuned("a", arch, epochs) for epochs in (1, 2, 1))
    assert (len(one.losses), len(two.losses)) == (1, 2) and same == one
    assert not torch.equal(again.classifier.weight, start["classifier.weight"])
    assert all(torch.equal(v, start[k]) for k, v in networks.inherited(arch).state_dict().items())
    (a, _), (b, _) = networks.from_scratch("a", arch, 1), networks.from_scratch("b", arch, 1)
    assert not torch.equal(a.classifier.weight, b.classifier.weight) and 0 <= networks.top1(a) <= 100


def search_rows(target: str, start: float, top1: float, held_out: float, arch: str, latency_ms: float) -> dict:
    """A row of stage starts: 10 ms, a step of 100 ms; a better network has less loss."""
    known = {"seed": 0, "start": start, "target": target, "target_latency_ms": 10.0, "table_latency_ms": latency_ms}
    times = {"step_ms": 100.0, "programme_ms": 0.1}
    return {**known, "max_violation_ms": 0.0, "loss": 5 - held_out / 20, "top1_held_out": held_out, "top1": top1, "arch": arch, **times}


@pytest.fixture
def results() -> Results:
    """Synthetic results with obvious verdicts."""
    return Results(
        targets=pd.DataFrame(
            [
                {
                    "name": name,
                    "target_latency_ms": 10.0,
                    "max_violation_ms": violation,
                    "table_latency_ms": ms,
                    "measured_latency_ms": measured,
                    "noise_floor": 0.001,
                    "top1": top1,
                    "top1_scratch": 70.0,
                }
                for name, violation, ms, measured, top1 in (
                    ("a", 0.0, 9.9, 10.0, 71.0),
                    ("b", 1e-12, 9.5, 9.6, 72.0),
                    ("c", 1e-3, 10.0, 12.0, 71.5),
                )
            ]
        ),
        seconds={"shared": 1000.0, "search": 20.0, "tuning": 10.0},
        tuning=pd.DataFrame(
            [
                {"network": name, "training": training, "epochs": epochs, "top1": top1, "images": 400, "measured_latency_ms": ms}
                for name, ms, figures in (("a", 10.0, (40, 71, 74, 70)), ("c", 20.0, (45, 76, 78, 76)))
                for (training, epochs), top1 in zip((("tuning", 0), ("tuning", 10), ("tuning", 50), ("scratch", 50)), figures)
            ]
        ),
        starts=pd.DataFrame(
            [
                search_rows("a", 0.0, 50.0, 30.0, "0", 8.0),
                search_rows("a", 0.25, 60.0, 40.0, "1", 9.0),
                search_rows("a", 1.0, 61.0, 41.0, "2", 8.5),
                search_rows("b", 0.0, 80.0, 60.0, "3", 9.2),
                search_rows("b", 0.25, 88.0, 69.0, "4", 9.1),
                search_rows("b", 1.0, 87.0, 69.5, "5", 9.0),
            ]
        ),
        start=0.25,
        epochs={"tuning": 2, "scratch": 4},
    )


def test_verdicts_by_hand(results):
    """Each claim by the synthetic results."""
    found = {claim.key: claim.verdict for claim in all_claims(results)}
    assert found == {
        "hard constraint": f"{SUPPORTED} in 3 of 4, {NOT_SUPPORTED} in 1",  # 1e-4 of the target
        "target used up": f"{SUPPORTED} in 2 of 3, {NOT_SUPPORTED} in 1",  # 5 % below
        "measured latency": f"{SUPPORTED} in 2 of 3, {NOT_SUPPORTED} in 1",
        "one more target": SUPPORTED,  # 3 % of 3.75 %
        "linear programmes": SUPPORTED,  # 0.1 of 100 ms
        "balanced start": SUPPORTED,  # 25 % and 100 % of the way
        "room to change": f"{INCONCLUSIVE} in 1 of 3, {NOT_SUPPORTED} in 2",  # top-1 -1 and +1; by the weights worse for both targets
        "short fine-tuning": f"{SUPPORTED} in 1 of 2, {INCONCLUSIVE} in 1",  # gains of 1 and 0
        "long fine-tuning": SUPPORTED,
        "order of networks": SUPPORTED,  # 2/3 more for both targets
    }


def test_equation_27_by_hand(results):
    """60 over 50 is 20 %, 88 over 80 is 10 %."""
    assert config.improvement(results.starts, 0.25) == pytest.approx(15)
    assert starts.metrics(results.starts, 0.25) == pytest.approx(
        {
            "start_0_loss": 2.75,
            "start_0_top1": 65.0,
            "start_0.25_loss": 2.275,
            "start_0.25_top1": 74.0,
            "start_1_loss": 2.2375,
            "start_1_top1": 74.0,
            "improvement_percent": 15.0,
        }
    )


def test_taus_by_hand(results):
    """Three networks a target: of a the weights order all rightly, of b two pairs of three; one found twice counts once."""
    twice = pd.concat([results.starts, results.starts.assign(seed=1)])
    found = claims.taus(twice)
    assert found["weights"].to_dict() == pytest.approx({"a": 1.0, "b": 1 / 3})
    assert found["latency"].to_dict() == pytest.approx({"a": 1 / 3, "b": -1 / 3})


def test_no_order_of_a_single_network(results):
    """Where all searches of every target find the same network there is nothing to compare."""
    same = replace(results, starts=results.starts.assign(arch=results.starts["target"]))
    assert claims.taus(same.starts).empty
    assert {claim.key: claim.verdict for claim in all_claims(same)}["order of networks"] == NOT_RUN


def test_without_other_starts_there_is_no_room_to_compare(results):
    """The fastest network and the own start only: the claim is left out, and the others stay."""
    two = all_claims(replace(results, starts=results.starts[results.starts["start"] < 1]))
    assert {claim.key for claim in all_claims(results)} - {claim.key for claim in two} == {"room to change"}


def test_the_page_shows_every_claim(results):
    """Every claim once in short and once at length, every part a row, each image once; small figures are not shown as none."""
    judged = all_claims(results)
    text = report.PAGE.text(judged, {"search": "400 steps"})
    lines = text.splitlines()
    for claim in judged:
        title = claim.key[0].upper() + claim.key[1:]
        assert f"### {title}" in lines
        assert f"| [{title}](#{claim.key.replace(' ', '-')}) | {claim.statement} | **{claim.verdict}** |" in lines
        assert all(any(line.startswith(f"| {part.name} |") for line in lines) for part in claim.parts)
    images = re.findall(r"!\[[^\]]*\]\(\S*/(\w+)\.png\)", text)
    assert sorted(images) == ["constraint", "figure_8", "starts"]
    assert "| search | 400 steps | 10,000 steps |" in lines and "| b: 10 ms | 1.0e-11 % | 1.0e-07 % | 0.00 % | supported |" in lines
    assert len(claim_rows(judged)) == sum(len(claim.parts) for claim in judged)


def test_figures_of_the_page_are_drawn(results):
    """Shares of the target; a line a start; a line a training, from the fastest network, with the error of counting 400 images."""
    history = pd.DataFrame({"name": ["a"] * 2 + ["b"] * 2, "step": [0, 20] * 2, "target_latency_ms": [10.0, 10.0, 20.0, 20.0]})
    shares = report.constraint_chart(history.assign(latency_ms=[5.0, 10.0, 15.0, 20.0]))
    assert [s.y.tolist() for s in shares.series] == [[50.0, 100.0], [75.0, 100.0], [100.0, 100.0]]
    found = report.starts_chart(replace(results, starts=results.starts.assign(target_latency_ms=[10.0] * 3 + [20.0] * 3)))
    assert [s.y.tolist() for s in found.series] == [[50.0, 80.0], [60.0, 88.0], [61.0, 87.0]]
    tuned = report.tuning_chart(results)
    assert {s.name: s.y.tolist() for s in tuned.series} == {
        "fine-tuned, 10 epochs": [71, 76],
        "fine-tuned, 50 epochs": [74, 78],
        "from scratch, 50 epochs": [70, 76],
    }
    assert tuned.series[2].error[0] == pytest.approx(100 * np.sqrt(0.7 * 0.3 / 400))
    for chart in (shares, found, tuned):
        report.style.image(chart)

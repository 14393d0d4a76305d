"""A small run of `dvc repro studies/methods/dvc.yaml`, with the other pipelines, in a copy of the project: minutes long."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from nas.cost import latency_hardcore_nas
from nas.runtime import presets
from nas.spaces import hardcore_nas
from nas.spaces.hardcore_nas import Arch
from studies.methods.results import METHODS
from tests.stages.differentiable_runs import again, change
from tests.stages.test_pipeline import dvc, small_copy
from tests.studies.strategies.test_strategies_pipeline import mlflow_runs, ran

pytestmark = pytest.mark.slow

FILE, OUTPUTS = "studies/methods/dvc.yaml", Path("studies/methods/outputs")
STAGES = ["alphanet", "alphanet_search", "baselines", "oneshot", "report"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project after its first run, and what dvc printed."""
    folder = tmp_path_factory.mktemp("methods") / "project"
    small_copy(folder)
    for name in ("tf_nas", "hardcore_nas", "methods"):
        place = folder / ("studies" if name == "methods" else "pipelines") / name
        presets.apply("smoke", place / "params.yaml", place / "presets")
    return folder, dvc(folder, "repro", FILE).stdout


def read(folder: Path, name: str):
    return json.loads((folder / OUTPUTS / name).read_text())


def test_each_stage_runs_once(finished):
    """With what it needs of the other pipelines before, and nothing a second time."""
    folder, output = finished
    own = re.findall(r"Running stage '(?:studies/methods/dvc.yaml:)?(\w+)'", output)
    assert set(STAGES) - {"report"} <= set(own) and ran(output).count("report") == 1
    assert ran(dvc(folder, "repro", FILE).stdout) == []


def test_every_network_of_every_method_is_measured(finished):
    """All methods in the table, each network with a latency, FLOPs, parameters and top-1; the page names them all."""
    folder, _ = finished
    found = pd.read_csv(folder / OUTPUTS / "report/networks.csv")
    assert list(dict.fromkeys(found["method"])) == list(METHODS)
    assert (found[["latency_ms", "mflops", "parameters"]] > 0).all(axis=None) and found["top1"].between(0, 100).all()
    page = (folder / "docs/methods.md").read_text()
    assert all(method in page for method in METHODS) and (folder / "docs/methods.png").stat().st_size > 20_000


def test_figures_are_those_of_the_other_pipelines(finished):
    """Top-1 of TF-NAS's and HardCoRe-NAS's networks as their summaries have it; parameters and FLOPs too, but for biases and pool."""
    folder, _ = finished
    found = pd.read_csv(folder / OUTPUTS / "report/networks.csv").set_index("method")
    for method, name in (("TF-NAS", "tf_nas"), ("HardCoRe-NAS", "hardcore_nas")):
        summary = json.loads((folder / "pipelines" / name / "outputs/summary.json").read_text())
        mine = found.loc[[method]]
        assert mine["top1"].tolist() == pytest.approx([entry["top1"] for entry in summary], abs=0.5)
        assert mine["parameters"].tolist() == [entry["parameters"] for entry in summary]
        assert mine["mflops"].tolist() == pytest.approx([entry["mflops"] for entry in summary], rel=0.05)


def test_searches_keep_to_the_target(finished):
    """Evolution and random search score as many networks; what each finds takes at most the target by the table."""
    folder, _ = finished
    glyphs = hardcore_nas.load(folder / "nas/spaces/hardcore_nas_glyphs.yaml")
    known = latency_hardcore_nas.HardcoreNasLatencyTable.load(folder / "pipelines/hardcore_nas/outputs/latency/table.json", glyphs, 6)
    entries = read(folder, "oneshot/networks.json")
    assert [entry["method"] for entry in entries] == ["evolution", "random"]
    assert len({entry["evaluations"] for entry in entries}) == 1
    for entry in entries:
        ms = known.latency_ms(Arch(map(tuple, entry["arch"])))
        assert entry["table_latency_ms"] == pytest.approx(ms, rel=1e-5) and ms <= entry["target_latency_ms"] + 1e-6


def test_fronts_are_in_one_view(finished):
    """A run a method with the same metrics, beside the stages' runs."""
    folder, _ = finished
    runs = [run for run in mlflow_runs(folder) if "front/top1" in run.data.metrics]
    assert sorted(run.data.tags["nas.strategy"] for run in runs) == sorted(METHODS)
    assert all({"front/latency_ms", "front/mflops", "front/parameters", "front/training_tmacs"} <= set(run.data.metrics) for run in runs)


def test_the_search_is_reproducible(finished):
    """Stage oneshot, run by force: the same networks and weights."""
    before, after = again(finished[0], "methods", "oneshot", ["networks.json", "history.csv", "weights.safetensors"])
    assert before == after


def test_alphanet_differs_in_the_loss_only(finished):
    """With KL in place of its divergence the supernet's weights are those of the main pipeline's training, to the last bit."""
    folder, _ = finished
    ours, theirs = folder / OUTPUTS / "alphanet", folder / "outputs/train"
    assert (ours / "weights.safetensors").read_bytes() != (theirs / "weights.safetensors").read_bytes()
    change(folder / "studies/methods/params.yaml", ("alphanet", "distillation"), {"loss": "kl", "temperature": 1.0, "weight": 1.0})
    dvc(folder, "repro", "--single-item", f"{FILE}:alphanet")
    for name in ("weights.safetensors", "early.safetensors"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()

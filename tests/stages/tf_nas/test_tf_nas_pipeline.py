"""A small run of `dvc repro pipelines/tf_nas/dvc.yaml`, in a copy of the project: minutes long."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nas.cost import latency_tf_nas
from nas.spaces import tf_nas
from nas.spaces.tf_nas import Arch
from tests.stages.differentiable_runs import again, hidden_channels, small_run
from tests.stages.test_pipeline import dvc
from tests.studies.strategies.test_strategies_pipeline import ran

pytestmark = pytest.mark.slow

FILE, OUTPUTS = "pipelines/tf_nas/dvc.yaml", Path("pipelines/tf_nas/outputs")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project after its first run, and the output of dvc."""
    folder = tmp_path_factory.mktemp("tf_nas") / "project"
    return folder, small_run(folder, "tf_nas")


def read(folder: Path, name: str):
    return json.loads((folder / OUTPUTS / name).read_text())


def test_each_stage_runs_once(finished):
    """The main pipeline's split runs before; a second repro runs nothing."""
    folder, output = finished
    assert ran(output) == sorted(["split", "latency", "search", "derive", "train", "transfer"])
    assert ran(dvc(folder, "repro", FILE).stdout) == []


def test_targets_are_met(finished):
    """Each network takes at most its target by the table, or its widths are at a bound; what the summary says is the table's."""
    folder, _ = finished
    glyphs = tf_nas.load(folder / "nas/spaces/tf_nas_glyphs.yaml")
    table = latency_tf_nas.TfNasLatencyTable.load(folder / OUTPUTS / "latency/table.json", glyphs, 6)
    searched, summary = read(folder, "search/searched.json"), read(folder, "summary.json")
    assert len(summary) == 2
    for found, entry in zip(searched, summary):
        choice = Arch(*(tuple(found[key]) for key in ("operations", "depths", "widths")))
        assert entry["table_latency_ms"] == pytest.approx(table.latency_ms(choice), rel=1e-5)
        assert entry["table_latency_ms"] <= entry["target_latency_ms"] + 1e-6 or entry["bounds_reached"] == "least"
        assert entry["measured_latency_ms"] > 0 and 0 <= entry["top1"] <= 100


def test_weights_are_those_of_the_rows(finished):
    """Each network's depthwise convolutions have the hidden channels of its rows."""
    folder, _ = finished
    weights = load_file(folder / OUTPUTS / "train/weights.safetensors")
    for entry in read(folder, "derive/family.json"):
        assert hidden_channels(weights, entry) == [row[1] for row in entry["rows"]]
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_a_forced_search_gives_the_same_outputs(finished):
    """With the same table, run by force: the same networks, architecture parameters and history."""
    folder, _ = finished
    before, after = again(folder, "tf_nas", "search", ["searched.json", "history.csv", "architecture_parameters.npz"])
    assert before == after

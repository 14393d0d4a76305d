"""The stages of TF-NAS: parameters, targets, classes, presets."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nas.cost.infeasible import InfeasibleTarget
from nas.data.loader import TrainingBatches
from nas.plots import heatmap
from nas.runtime import presets
from nas.runtime.io import DocumentError
from nas.runtime.params import ParamsError
from nas.stages.differentiable import LatencyTarget
from nas.stages.tf_nas import config
from nas.stages.tf_nas.search import heat_maps
from nas.stages.tf_nas.target_searches import of_classes
from tests.differentiable.tf_nas.tiny import TINY, random_table
from tests.stages.differentiable_runs import change

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped parameters; the current folder is the project's root."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copy(config.PIPELINE.parameters, tmp_path / "params.yaml"))


@pytest.mark.parametrize("name", ["paper", "smoke"])
def test_every_preset_gives_valid_parameters(file, name):
    """Every key of a preset is a key of params.yaml, and the result is read without an error."""
    presets.apply(name, file, ROOT / config.PIPELINE.folder / "presets")
    assert config.read(file).space.name == ("efficientnet_b0" if name == "paper" else "glyphs")


def test_the_papers_settings(file):
    """Supplement, section 2: 90 epochs, 10 of them weights-only, 250 from scratch, lambda 0.1."""
    presets.apply("paper", file, ROOT / config.PIPELINE.folder / "presets")
    s = config.read(file)
    assert (s.search.method.epochs, s.search.method.weight_epochs, s.train.optimisation.epochs, s.search.method.trade_off) == (
        90,
        10,
        250,
        0.1,
    )
    assert (s.search.classes.number, s.train.optimisation.batch, s.search.method.batch, s.latency.batch) == (100, 512, 32, 32)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("search", "targets"), [{"latency_ms": 3.0, "share": 0.2}], "one of latency_ms and share"),
        (("search", "targets"), [], "search.targets"),
        (("search", "method", "weight_epochs"), 20, "leave none for alpha and beta"),
        (("latency", "backend"), {"runtime": "onnxruntime", "threads": 1}, "latency.backend"),
        (("sed",), 1, "sed is not a known key"),
        (("seed",), -1, "a whole number from 0 on"),
    ],
)
def test_a_mistake_names_the_key(file, keys, value, message):
    """All of the parameters are checked before a stage runs."""
    change(file, keys, value)
    with pytest.raises(ParamsError, match=message):
        config.read(file)


def test_targets_are_milliseconds_or_shares():
    """A share of 0 is the fastest network, a share of 1 the slowest."""
    table = random_table(TINY)
    fastest, slowest = table.range_ms
    assert LatencyTarget(share=0.0).ms(fastest, slowest, "here") == fastest
    assert LatencyTarget(share=1.0).ms(fastest, slowest, "here") == pytest.approx(slowest)
    assert LatencyTarget(latency_ms=fastest + 0.5).ms(fastest, slowest, "here") == fastest + 0.5


def test_impossible_targets_are_refused():
    """The message states the achievable range."""
    with pytest.raises(InfeasibleTarget, match=r"costs 0\.1 ms .*achievable range is 2\.5 to 7 ms; change search\.targets"):
        LatencyTarget(latency_ms=0.1).ms(2.5, 7.0, "search.targets")


def test_a_damaged_file_is_named():
    """An entry without widths raises."""
    with pytest.raises(DocumentError, match=r"searched\.json is damaged.*widths"):
        config.read_arch({"operations": [0], "depths": [1]})


def test_selected_classes_have_labels_from_0_on(easy_set):
    """Batches have images of the selected classes only."""
    found = of_classes(easy_set, np.array([0, 2]))
    items = found.indices("train")
    items = items[found.labels[items] >= 0]
    assert found.classes == ("red", "blue")
    augmentation = config.Augmentation(crop_scale=(1.0, 1.0), flip=False, policy="none")
    for batch in TrainingBatches(found, items, 10, augmentation, 0).epoch(0):
        assert [0 if label == 0 else 1 for label in easy_set.labels[batch.indices.numpy()]] == batch.labels.tolist()
        assert 1 not in easy_set.labels[batch.indices.numpy()]


def test_the_network_in_the_middle_is_in_the_space():
    """It has all layers, with the widths that a search starts with."""
    plan = TINY.middle()
    assert len(plan.rows) == 1 + len(TINY.layers) and TINY.plan(TINY.arch(plan)) == plan


def test_heat_maps_are_drawn(tmp_path):
    """All searches are drawn into one file."""
    rng = np.random.default_rng(0)
    operations = [rng.dirichlet(np.ones(3), size=5) for _ in range(4)]
    sinks = [[rng.dirichlet(np.ones(stage.depth)) for stage in TINY.stages] for _ in range(4)]
    heatmap.draw([heat_maps(name, TINY, operations, sinks) for name in "ab"], "epoch", tmp_path / "architecture_parameters.png")
    assert (tmp_path / "architecture_parameters.png").stat().st_size > 10_000

"""The stages of HardCoRe-NAS: parameters, targets, presets, resumed trainings and searches."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nas.cost.infeasible import InfeasibleTarget
from nas.cost.latency_hardcore_nas import ExpectedLatency
from nas.data.splits import hold_out
from nas.differentiable.hardcore_nas.one_shot import OneShot
from nas.differentiable.hardcore_nas.training import largest, largest_loss
from nas.plots import heatmap
from nas.runtime import presets, seeding
from nas.runtime.checkpoint import Checkpoint
from nas.runtime.io import DocumentError
from nas.runtime.params import ParamsError
from nas.spaces import FOLDER, hardcore_nas
from nas.spaces.hardcore_nas import Arch
from nas.stages.differentiable import LatencyTarget
from nas.stages.hardcore_nas import config
from nas.stages.hardcore_nas.resumable_training import Trained, Trainer, training_batches
from nas.stages.hardcore_nas.search import heat_maps, seconds
from nas.stages.hardcore_nas.searcher import Search, Searcher, outcome
from nas.stages.hardcore_nas.train import sort_model
from nas.tracking.runs import SilentRun
from tests.stages.differentiable_runs import change

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
GLYPHS = hardcore_nas.load(FOLDER / "hardcore_nas_glyphs.yaml")
SMALL = hardcore_nas.Space.model_validate(
    {**GLYPHS.model_dump(), "name": "small", "resolution": 8, "stages": GLYPHS.model_dump()["stages"][:2]}
)


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """A copy of the shipped parameters; the current folder is the project's root."""
    monkeypatch.chdir(ROOT)
    return Path(shutil.copy(config.PIPELINE.parameters, tmp_path / "params.yaml"))


@pytest.fixture
def settings(file) -> config.HardcoreNasParams:
    """Short ones, in a small space."""
    s = config.read(file)
    search = s.search.model_copy(update={"steps": 12, "record_every": 4, "batch": 3, "rate": 0.2})
    largest = s.train.largest.model_copy(update={"epochs": 3, "batch": 20})
    return replace(s, space=SMALL, search=search, train=s.train.model_copy(update={"largest": largest}))


@pytest.fixture
def latency() -> ExpectedLatency:
    """Blocks take from 0.2 to 2 ms, in no order."""
    shape = (len(SMALL.stages), SMALL.blocks, len(SMALL.configurations))
    return ExpectedLatency(1.0, np.random.default_rng(0).uniform(0.2, 2, shape), SMALL.offered)


class Stopping(SilentRun):
    """Stops the stage when it logs a certain step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def log(self, metrics: dict[str, float], step: int) -> None:
        if step == self._step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["paper", "smoke"])
def test_every_preset_gives_valid_parameters(file, name):
    """Every key of a preset is a key of params.yaml, and the result is read without an error."""
    presets.apply(name, file, ROOT / config.PIPELINE.folder / "presets")
    assert config.read(file).space.name == ("hardcore_nas" if name == "paper" else "hardcore_glyphs")


def test_the_papers_settings(file):
    """300 and 100 epochs, 10,000 steps of 0.002, 50 epochs of fine-tuning, a fifth of the images for the search."""
    presets.apply("paper", file, ROOT / config.PIPELINE.folder / "presets")
    s = config.read(file)
    assert (s.train.largest.epochs, s.train.multi_path.epochs, s.tune.tuning.epochs) == (300, 100, 50)
    assert (s.train.largest.learning_rate, s.train.multi_path.learning_rate, s.tune.tuning.learning_rate) == (0.128, 0.0128, 0.00128)
    assert (s.search.steps, s.search.rate, s.search.momentum, s.images.held_out, s.train.sorted_on) == (10_000, 0.002, 0.9, 0.2, 0.1)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("search", "targets"), [{"latency_ms": 3.0, "share": 0.2}], "one of latency_ms and share"),
        (("search", "record_every"), 7, r"search\.record_every: \d+ steps cannot be divided into parts of 7"),
        (("search", "rate"), 1.5, r"search\.rate"),
        (("train", "largest", "epoch"), 3, r"train\.largest\.epoch is not a known key; did you mean 'epochs'"),
        (("tune", "tuning", "batch"), 1, r"tune\.tuning\.batch"),
        (("sed",), 1, "sed is not a known key"),
    ],
)
def test_a_mistake_names_the_key(file, keys, value, message):
    """All of the parameters are checked before a stage runs."""
    change(file, keys, value)
    with pytest.raises(ParamsError, match=message):
        config.read(file)


def test_impossible_targets_are_refused(latency):
    """The message has the achievable range: 1 ms, and the blocks of the smallest or of the largest network."""
    low = 1 + sum(latency.blocks_ms[s, 0].min() for s in range(2))
    high = 1 + latency.blocks_ms.max(2).sum()
    with pytest.raises(
        InfeasibleTarget, match=rf"costs 0\.5 ms on this device; the achievable range is {low:.6g} to {high:.6g} ms; change search\.targets"
    ):
        LatencyTarget(latency_ms=0.5).ms(*latency.range_ms, "search.targets")


def test_the_whole_range_is_a_target():
    """A share of 1 is never beyond the slowest network, whatever is rounded."""
    rng = np.random.default_rng(0)
    for cheapest, more in rng.uniform(0.1, 9, (2000, 2)):
        assert LatencyTarget(share=1.0).ms(cheapest, cheapest + more, "here") <= cheapest + more


def test_the_search_has_its_own_images(easy_set):
    """They are a share of each class, the same for the same seed, and are not trained on."""
    items = easy_set.indices("train")
    mine, theirs = hold_out(items, easy_set.labels, 0.2, 0)
    assert sorted([*mine, *theirs]) == list(items)
    assert np.bincount(easy_set.labels[theirs]).tolist() == [4, 4, 4]
    assert np.array_equal(hold_out(items, easy_set.labels, 0.2, 0)[1], theirs)


def test_a_batch_that_cannot_be_filled_is_an_error(easy_set, settings):
    """The message has the key."""
    with pytest.raises(ParamsError, match=r"tune\.scratch\.batch: 'easy' has 36 images for it, fewer than a batch of 64"):
        training_batches(easy_set, easy_set.indices("val"), 64, "tune.scratch.batch", settings, CPU)


def new_model(settings: config.HardcoreNasParams) -> OneShot:
    with seeding.torch_seed(settings.seed, "weights"):
        return OneShot(settings.space, 3)


def trained(settings: config.HardcoreNasParams, easy_set, folder: Path, run: SilentRun) -> tuple[OneShot, Trained]:
    """The largest network after the training, its state in the folder."""
    model = new_model(settings)
    with Checkpoint(folder, "train", "same") as checkpoint:
        trainer = Trainer("train", settings, easy_set, CPU, checkpoint, run)
        how = settings.train.largest
        return model, trainer.fit("largest", "largest", model, largest_loss(model, 0.1), easy_set.indices("train"), how)


def test_an_interrupted_training_resumes(easy_set, settings, tmp_path):
    """Interrupted after the second of three epochs, it gives the same weights and losses; the time of both runs counts."""
    whole, found = trained(settings, easy_set, tmp_path / "whole", SilentRun())
    with pytest.raises(KeyboardInterrupt):
        trained(settings, easy_set, tmp_path / "parts", Stopping(2))
    kept = torch.load(next((tmp_path / "parts").rglob("largest.pt")), weights_only=True)
    again, found_again = trained(settings, easy_set, tmp_path / "parts", SilentRun())
    assert kept["epoch"] == 2
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    assert found.losses == found_again.losses
    assert len(found.losses) == 3
    assert found_again.seconds > kept["seconds"] > 0


def test_channels_are_sorted_once(easy_set, settings, tmp_path):
    """A second call reads the sorted weights; the outputs of the network stay the same."""
    model = new_model(settings)
    with Checkpoint(tmp_path, "train", "same") as checkpoint:
        args = largest_loss(model, 0.0), easy_set, easy_set.indices("train"), settings, CPU, checkpoint
        took, again = sort_model(model, *args), new_model(settings)
        assert sort_model(again, *args) == took
    start, images, paths = new_model(settings).eval(), torch.randn(2, 3, 20, 20), largest(model, 2)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert not torch.equal(model.stages[0][0].expand.weight, start.stages[0][0].expand.weight)
    torch.testing.assert_close(model(images, paths), start(images, paths))


def searched(
    settings: config.HardcoreNasParams, latency: ExpectedLatency, easy_set, folder: Path, run: SilentRun, target_ms: float
) -> Search:
    """The search for a target, its state in the folder."""
    with Checkpoint(folder, "search", "same") as checkpoint:
        model = new_model(settings)
        return Searcher(settings, model, latency, easy_set, easy_set.indices("train"), CPU, checkpoint, run).search("a", target_ms)


def test_an_interrupted_search_resumes(easy_set, settings, latency, tmp_path):
    """Interrupted after two of three records, it gives the same result, and the latency never exceeds the target."""
    target_ms = LatencyTarget(share=0.3).ms(*latency.range_ms, "here")
    whole = searched(settings, latency, easy_set, tmp_path / "whole", SilentRun(), target_ms)
    with pytest.raises(KeyboardInterrupt):
        searched(settings, latency, easy_set, tmp_path / "parts", Stopping(8), target_ms)
    again = searched(settings, latency, easy_set, tmp_path / "parts", SilentRun(), target_ms)
    assert [row["step"] for row in whole.rows] == [0, 4, 8, 12]
    assert again.rows == whole.rows
    assert np.array_equal(again.alpha, whole.alpha)
    assert np.array_equal(again.beta, whole.beta)
    end = outcome(whole, latency, target_ms)
    assert end["max_violation_ms"] <= 1e-9 * target_ms
    assert SMALL.check(end["arch"]) and end["latency_ms"] == pytest.approx(latency.of(end["arch"]), abs=1e-6)


def test_the_fastest_network_is_a_feasible_target(easy_set, settings, latency, tmp_path):
    """It is the only network within the target."""
    low, _ = latency.range_ms
    found = outcome(searched(settings, latency, easy_set, tmp_path, SilentRun(), low), latency, low)
    assert found["arch"] == Arch((int(row[0].argmin()),) for row in latency.blocks_ms)
    assert found["max_violation_ms"] <= 1e-9


def test_heat_maps_go_from_the_fastest_configuration(latency, tmp_path):
    """There is one heatmap per stage and one per block, over the steps, in one file."""
    rng, shape = np.random.default_rng(0), latency.blocks_ms.shape
    rows = tuple({"step": 5 * i, "latency_ms": 3.0, "loss": None} for i in range(4))
    alpha, beta = rng.dirichlet(np.ones(shape[2]), (4, *shape[:2])), rng.dirichlet(np.ones(shape[1]), (4, shape[0]))
    found = heat_maps("a", SMALL, latency, Search(None, rows, alpha, beta, 0.0, 0.0))
    depths, blocks = found.rows
    assert (len(depths), len(blocks), list(found.times)) == (2, 6, [0, 5, 10, 15])
    slowest = latency.blocks_ms.sum((0, 1)).argmax()
    assert np.array_equal(blocks[1].weights[:, -1], alpha[:, 0, 1, slowest])
    heatmap.draw([found, found], "step", tmp_path / "architecture_parameters.png")
    assert (tmp_path / "architecture_parameters.png").stat().st_size > 10_000


def test_history_has_a_row_per_epoch():
    """Each row has the given columns."""
    rows = Trained((2.0, 1.5), 1.0).rows(network="a", training="tuning")
    assert pd.DataFrame(rows).to_dict("list") == {"network": ["a"] * 2, "training": ["tuning"] * 2, "epoch": [1, 2], "loss": [2.0, 1.5]}


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "a", "target_latency_ms": 3.0, "max_violation_ms": 0.0},
        {"name": "a", "target_latency_ms": 3.0, "max_violation_ms": 0.0, "arch": [[0]]},
        {"name": "a", "arch": [[0], [1]]},
        7,
    ],
)
def test_a_damaged_file_is_named(tmp_path, entry):
    """The message has the stage that writes it: without a network, with one of another space, without a latency, not an entry."""
    path = tmp_path / "searched.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(DocumentError, match=r"searched\.json is damaged.*dvc repro -f pipelines/hardcore_nas/dvc\.yaml:search"):
        config.read_networks(path, SMALL, "search", config.SEARCHED_KEYS)


def test_the_shared_duration_is_that_of_stage_train():
    """A file without it raises."""
    assert seconds({"seconds": 12}) == 12.0
    with pytest.raises(DocumentError, match=r"train/metrics\.json is damaged.*dvc\.yaml:train"):
        seconds({})

"""The papers' presets run: two steps of every stage with the paper's spaces and sizes, on generated photographs in ImageNet's layout.

`CUT` has the smaller sizes, everything else is the preset's. Read as on a real machine, through torchvision: ImageNet as it lies when its
archives are unpacked (meta.bin, train/, val/), Stanford Cars and Food-101. Flowers 102 is left out: torchvision knows its files by
md5 (tests/data/test_sets.py reads a copy of its form).
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from scipy.io import savemat

from nas.spaces import encoding, mbconv
from tests.stages.test_pipeline import STAGES, dvc, metrics, ran, run, small_copy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLASSES = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",), "n02012849": ("crane",)}
TRAIN, VAL = 9, 3  # images a class
CUT = {  # params.yaml after the preset
    "split.transfer": [{"name": "stanford_cars"}, {"name": "food101"}],
    "split.val": 0.12,  # of 27 images 0.01 is none
    "runtime.threads": 2,
    "runtime.workers": 2,
    "recipe.batch": 10,  # two steps an epoch, of 21 images and of 24
    "evaluation.batch": 8,
    "evaluation.calibration_batches": 1,
    "pretrain.epochs": 1,
    "pretrain.subnetworks": 8,
    "train.epochs": 1,
    "train.search_epoch": 1,
    "latency.repetitions": 4,
    "latency.fitted": 4,
    "latency.networks": 8,
    "search.models": 2,
    "search.evolution.population": 4,
    "search.evolution.mutations": 2,
    "search.evolution.crossovers": 2,
    "search.evolution.rounds": 1,
    "export.calibration_images": 8,
    "export.register_models": False,
    "transfer.models": 1,
    "transfer.learning_rates": [0.01],
    "transfer.weight_decays": [1.0e-5],
    "transfer.fine_tuning.epochs": 2,
    "transfer.fine_tuning.batch": 8,
}


def photograph(path: Path, rng: np.random.Generator, label: int) -> None:
    """A JPEG of some 224 pixels: a smooth image whose colour tells the class, with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = rng.integers(0, 160, size=(8, 8, 3), dtype=np.uint8)
    small[:, :, label] += 90
    width, height = rng.integers(224, 321, size=2).tolist()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, "JPEG", quality=85)


def imagenet(root: Path, rng: np.random.Generator) -> None:
    for part, n in (("train", TRAIN), ("val", VAL)):
        for label, wnid in enumerate(CLASSES):
            for i in range(n):
                photograph(root / part / wnid / f"{wnid}_{i}.JPEG", rng, label)
    torch.save((CLASSES, [wnid for wnid in CLASSES for _ in range(VAL)]), root / "meta.bin")


def stanford_cars(root: Path, rng: np.random.Generator) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    for part, table in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(f"{i:05d}.jpg", 1 + i % 2) for i in range(20)]
        for file, number in rows:
            photograph(base / f"cars_{part}" / file, rng, number)
        savemat(base / table, {"annotations": np.array(rows, dtype=[("fname", object), ("class", object)])})
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["sedan", "coupe"], dtype=object)})


def food101(root: Path, rng: np.random.Generator) -> None:
    base = root / "food-101"
    for part in ("train", "test"):
        names = {food: [f"{food}/{part}{i}" for i in range(10)] for food in ("apple_pie", "waffles")}
        (base / "meta").mkdir(parents=True, exist_ok=True)
        (base / "meta" / f"{part}.json").write_text(json.dumps(names))
        for label, files in enumerate(names.values()):
            for file in files:
                photograph(base / "images" / f"{file}.jpg", rng, label)


def apply(folder: Path, preset: str) -> None:
    """The preset applied to the project's params.yaml, then the smaller sizes of `CUT`."""
    run(folder, "git", "checkout", "--quiet", "params.yaml")
    run(folder, sys.executable, "-m", "nas.runtime.presets", preset)
    file = folder / "params.yaml"
    found = yaml.safe_load(file.read_text())
    for key, value in CUT.items():
        *sections, name = key.split(".")
        inner = found
        for section in sections:
            inner = inner[section]
        assert name in inner, key
        inner[name] = value
    file.write_text(yaml.safe_dump(found, sort_keys=False))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with generated images where the presets look for them."""
    folder = tmp_path_factory.mktemp("imagenet") / "project"
    small_copy(folder)
    rng = np.random.default_rng(0)
    (folder / "data" / "imagenet").mkdir(parents=True)
    imagenet(folder / "data" / "imagenet", rng)
    for build in (stanford_cars, food101):
        build(folder / "data" / "transfer", rng)
    return folder


def test_every_stage_runs_with_the_imagenet_preset(project):
    """All of them run, with the paper's space, 224 pixels, attentive sampling and early weights, and leave what they should."""
    apply(project, "imagenet")
    printed = dvc(project, "repro").stdout
    assert sorted(ran(printed)) == sorted(STAGES)
    described = json.loads((project / "outputs" / "split" / "sets.json").read_text())
    assert described["main"] == "imagenet" and described["transfer"] == ["stanford_cars", "food101"] and described["search_in_training"]
    assert described["sets"]["imagenet"]["side"] == 224 and described["sets"]["imagenet"]["classes"] == ["tench", "goldfish", "crane"]
    assert "pretrain: steps: 2 to do" in printed and "train: steps: 2 to do" in printed
    paper = mbconv.load(ROOT / "nas" / "spaces" / "attentive_nas.yaml")
    family = encoding.read_family(project / "outputs" / "search" / "family.json")
    assert all(encoding.from_json(model["arch"]) in paper and 150 < model["mflops"] < 2000 for model in family)
    assert metrics(project, "search")["evaluations"] == 4 + 2 + 2
    assert set(pd.read_parquet(project / "outputs" / "transfer" / "results.parquet")["set"]) == {"stanford_cars", "food101"}
    assert (project / "outputs" / "report" / "index.html").stat().st_size > 100_000


def test_training_runs_with_the_alphanet_preset(project):
    """Its own space, uniform sampling and the adaptive alpha-divergence: two steps of each training."""
    apply(project, "alphanet")
    printed = dvc(project, "repro", "train").stdout
    assert {"pretrain", "train"} <= set(ran(printed)) <= {"split", "pretrain", "fit_predictor", "train"}
    history = pd.read_csv(project / "outputs" / "train" / "history.csv")
    assert len(history) == 1 and np.isfinite(history["loss_sampled"]).all()

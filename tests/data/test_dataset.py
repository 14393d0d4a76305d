"""Datasets as stage split writes them: opened again, with the same images, parts and statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data.augmentation import Augmentation
from nas.data.dataset import dataset_keys, open_dataset
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.data.sources import FolderImages, ImageError
from nas.data.splits import Split
from nas.runtime.params import check
from nas.stages.split import divide

PLAIN = Augmentation(crop_scale=(1.0, 1.0), flip=False, policy="none")
FULL = Augmentation(crop_scale=(0.4, 1.0), flip=True, policy="svhn")


def split(out: Path, **changes) -> dict[str, int]:
    entries = {
        "root": "nas/data",
        "data": {"name": "glyphs", "images": 600, "alphabet": "ABCDE"},
        "transfer_root": "nas/data",
        "transfer": [{"name": "greek", "images": 105}],
        "side": 12,
        "test": 0.25,
        "predictor": 0.1,
        "search": 0.15,
        "val": 0.05,
        "check_files": True,
        "broken_files": 0,
        **changes,
    }
    return divide(check({"split": entries}, "split", Split), 0, False, out)


def image_folder(root: Path, rng: np.random.Generator, per_class: int = 40) -> Path:
    """Noise of different sizes, PNG and JPEG, in two classes."""
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(256, size=(20 + i % 3, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i:03d}.{'png' if i % 2 else 'jpg'}")
    return root


def test_opened_datasets_are_those_that_split_wrote(tmp_path):
    """The main dataset opens without a key, a transfer dataset by its key; training pixels are normalised."""
    split(tmp_path)
    assert dataset_keys(tmp_path) == ("glyphs", "greek")
    main, greek = open_dataset(tmp_path), open_dataset(tmp_path, "greek")
    assert (main.key, main.classes, main.side, len(main.images)) == ("glyphs", tuple("ABCDE"), 12, 600)
    assert greek.parts.counts() == {"train": 79, "test": 26}
    images = torch.cat([b.images for b in EvaluationBatches(main, main.indices("train"), 50)])
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(images.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_an_unknown_dataset_is_an_error_that_lists_the_known_ones(tmp_path):
    """An unknown key raises with the list of keys; before split the error says how to run it."""
    with pytest.raises(FileNotFoundError, match="run: dvc repro split"):
        open_dataset(tmp_path)
    split(tmp_path)
    with pytest.raises(ValueError, match=r"no dataset 'cyrillic'.*\['glyphs', 'greek'\]"):
        open_dataset(tmp_path, "cyrillic")


@pytest.mark.parametrize("augmentation", [PLAIN, FULL])
def test_images_of_a_folder_become_batches(tmp_path, rng, augmentation):
    """PNG and JPEG files of several sizes become batches of one side."""
    root = image_folder(tmp_path / "pets", rng)
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"}, side=16)
    dataset = open_dataset(tmp_path / "out")
    assert isinstance(dataset.images, FolderImages) and dataset.key == "pets" and dataset.classes == ("cat", "dog")
    shapes = [b.images.shape for b in TrainingBatches(dataset, dataset.indices("train"), 8, augmentation, seed=0).epoch(0)]
    assert shapes == [(8, 3, 16, 16)] * (len(dataset.indices("train")) // 8)


def test_images_added_after_the_split_are_an_error(tmp_path, rng):
    """A file that is added after the split would shift all indices."""
    root = image_folder(tmp_path / "pets", rng)
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"})
    Image.new("RGB", (20, 20)).save(root / "cat" / "new.png")
    with pytest.raises(ValueError, match=r"'pets' have changed since .*\(80 then, 81 now\)"):
        open_dataset(tmp_path / "out")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_broken_after_the_split_is_named(tmp_path, rng, workers):
    """A file truncated after the split stops the epoch with its path, also in a worker process."""
    root = image_folder(tmp_path / "pets", rng)
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"})
    dataset = open_dataset(tmp_path / "out")
    path = dataset.images.paths[dataset.indices("train")[0]]
    path.write_bytes(path.read_bytes()[:200])
    batches = TrainingBatches(dataset, dataset.indices("train"), len(dataset.indices("train")), PLAIN, seed=0, workers=workers)
    with pytest.raises(ImageError, match=path.name):
        list(batches.epoch(0))


def test_files_left_out_by_split_are_in_no_part_and_count_as_broken(tmp_path, rng):
    """With three tolerated and two left out by split, the second file broken later raises."""
    root = image_folder(tmp_path / "pets", rng)
    for name in ("cat/003.png", "dog/010.jpg"):
        (root / name).write_bytes(b"")
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"}, transfer=[], broken_files=3)
    dataset = open_dataset(tmp_path / "out")
    assert sum(dataset.parts.counts().values()) == 78 and len(dataset.images) == 80
    left_out = {i for i, path in enumerate(dataset.images.paths) if path.relative_to(root).as_posix() in ("cat/003.png", "dog/010.jpg")}
    assert not left_out & set(dataset.indices("train", "predictor", "search", "val", "test").tolist())
    assert (dataset.broken.limit, dataset.broken.left_out) == (3, 2)
    for i in dataset.indices("train")[:2]:
        dataset.images.paths[i].write_bytes(b"")
    with pytest.raises(ImageError, match="pets: 4 files are broken, 3 are tolerated"):
        list(TrainingBatches(dataset, dataset.indices("train"), len(dataset.indices("train")), PLAIN, seed=0).epoch(0))

"""Batches depend on seed, epoch and image only."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data.decoding import Broken
from nas.data.loader import Augmentation, AutoAugment, DataSet, EvaluationBatches, TrainingBatches, keys, read
from nas.data.sets import ArrayImages, FolderImages, ImageError
from nas.data.splits import Parts
from nas.data.vision import transforms
from nas.runtime.params import ParamsError, check
from nas.stages.split import Split, divide

PLAIN = Augmentation(crop_scale=(1.0, 1.0), flip=False, policy="none")
FULL = Augmentation(crop_scale=(0.4, 1.0), flip=True, policy="svhn")


@pytest.fixture(scope="module")
def dataset() -> DataSet:
    """60 noise images of 12 px, 3 classes; all for training."""
    pixels = np.random.default_rng(0).integers(256, size=(60, 12, 12, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(60, dtype=np.int64) % 3, ("a", "b", "c"))
    parts = Parts(np.full(60, "train"))
    return DataSet("noise", "Noise", images, images.classes, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 12, parts, search_in_training=False)


def by_item(batches) -> dict[int, torch.Tensor]:
    """Image number -> its image."""
    return {int(item): image for batch in batches for item, image in zip(batch.items, batch.images)}


def test_a_plain_batch_is_the_normalised_pixels(dataset):
    """Without augmentation an image is (pixel / 255 - mean) / std of its item, channel by channel, with its label."""
    for batch in TrainingBatches(dataset, np.arange(60), 20, PLAIN, seed=0).epoch(0):
        pixels = dataset.images.pixels[batch.items.numpy()] / 255
        expected = ((pixels - dataset.mean) / dataset.std).transpose(0, 3, 1, 2)
        assert batch.images.dtype == torch.float32 and batch.images.is_contiguous()
        assert np.allclose(batch.images, expected, atol=1e-5)
        assert batch.labels.tolist() == (batch.items % 3).tolist() and batch.labels.dtype == torch.int64


def test_an_epoch_shows_each_image_once_and_drops_the_rest(dataset):
    """60 images in batches of 25: two batches of 25 different images, others in another order next time."""
    batches = TrainingBatches(dataset, np.arange(60), 25, PLAIN, seed=0)
    first, second = (list(batches.epoch(e)) for e in (0, 1))
    assert batches.steps == 2 and [len(b.items) for b in first] == [25, 25]
    assert len(by_item(first)) == 50
    assert list(by_item(first)) != list(by_item(second)) and by_item(first).keys() != by_item(second).keys()


def test_an_epoch_does_not_depend_on_earlier_ones(dataset):
    """Epoch 3 is the same after epochs 0 to 2 and right at the start, and differs from epoch 2."""
    through, resumed = (TrainingBatches(dataset, np.arange(60), 16, FULL, seed=5) for _ in range(2))
    epochs = [list(through.epoch(e)) for e in range(4)]
    again = list(resumed.epoch(3))
    assert all(torch.equal(a.images, b.images) and torch.equal(a.items, b.items) for a, b in zip(epochs[3], again, strict=True))
    before, after = by_item(epochs[2]), by_item(epochs[3])
    assert any(not torch.equal(before[i], after[i]) for i in before.keys() & after.keys())


def test_batch_size_does_not_change_a_image(dataset):
    """In one epoch an image is augmented in the same way whether it comes in a batch of 10 or of 30."""
    small, large = (by_item(TrainingBatches(dataset, np.arange(60), size, FULL, seed=1).epoch(2)) for size in (10, 30))
    assert small.keys() == large.keys()
    assert all(torch.equal(small[i], large[i]) for i in small)


def test_workers_do_not_change_batches(dataset):
    """Two worker processes give what none gives, in the same order, in training and in evaluation."""
    for here, there in (
        (TrainingBatches(dataset, np.arange(60), 16, FULL, 1, workers=n).epoch(1) for n in (0, 2)),
        (EvaluationBatches(dataset, np.arange(60), 16, workers=n) for n in (0, 2)),
    ):
        for a, b in zip(here, there, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.items, b.items) and torch.equal(a.labels, b.labels)


def test_seeds_differ(dataset):
    """Another seed gives another order and another augmentation."""
    one, two = (by_item(TrainingBatches(dataset, np.arange(60), 60, FULL, seed).epoch(0)) for seed in (1, 2))
    assert list(one) != list(two)
    assert sum(not torch.equal(one[i], two[i]) for i in one) > 50


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_states_stay_as_they_were(dataset, workers):
    """Loading augmented images draws nothing from the caller's generators."""
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(TrainingBatches(dataset, np.arange(60), 20, FULL, seed=0, workers=workers).epoch(0))
    list(EvaluationBatches(dataset, np.arange(60), 20, workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_policies_are_torchvisions(dataset, policy):
    """Over 60 images, the quicker AutoAugment gives what torchvision's gives from the same random state."""
    ours, theirs = (kind(transforms.AutoAugmentPolicy(policy)) for kind in (AutoAugment, transforms.AutoAugment))
    for i in range(60):
        image = Image.fromarray(dataset.images.image(i))
        results = []
        for augment in (ours, theirs):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(i)
                results.append(np.asarray(augment(image)))
        assert np.array_equal(*results)


def test_flips_come_every_second_time(dataset):
    """With flips alone, each image is itself or its mirror image, both in 20 to 40 of 60 cases."""
    flipped = 0
    for i, image in by_item(TrainingBatches(dataset, np.arange(60), 60, PLAIN.model_copy(update={"flip": True}), 0).epoch(0)).items():
        plain = by_item(EvaluationBatches(dataset, np.array([i]), 1))[i]
        mirrored = torch.equal(image, plain.flip(2))
        assert mirrored or torch.equal(image, plain)
        flipped += mirrored
    assert 20 <= flipped <= 40


def test_too_few_images_for_a_batch_stop(dataset):
    """The message has the key, the set and the number of images."""
    with pytest.raises(ValueError, match=r"recipe\.batch 64: 'noise' has 60 images"):
        TrainingBatches(dataset, np.arange(60), 64, PLAIN, seed=0)


@pytest.mark.parametrize("scale", [[0.5, 0.2], [0, 1], [0.5, 1.5]])
def test_impossible_crops_stop(scale):
    """Scales are parts of the area in ascending order."""
    with pytest.raises(ParamsError, match=r"a\.crop_scale: two parts of the area"):
        check({"a": {"crop_scale": scale, "flip": False, "policy": "none"}}, "a", Augmentation)


def test_evaluation_goes_in_order_and_again(dataset):
    """Given items come in the order given, the last batch smaller, and a second pass is the same as the first."""
    items = np.array([5, 3, 40, 41, 7])
    batches = EvaluationBatches(dataset, items, 2)
    passes = [list(batches) for _ in range(2)]
    assert len(batches) == 3
    for found in passes:
        assert [b.items.tolist() for b in found] == [[5, 3], [40, 41], [7]]
        assert all(torch.equal(a.images, b.images) for a, b in zip(found, passes[0]))


@pytest.mark.parametrize(("keep_mb", "decoded"), [(1, 60), (0, 180)])
def test_images_are_decoded_once_where_they_fit(dataset, keep_mb, decoded):
    """Three passes over 60 images decode 60 when they may be kept, else 180; an unfinished pass keeps nothing."""
    seen = []

    class Counted(ArrayImages):
        def image(self, i):
            seen.append(i)
            return super().image(i)

    counted = DataSet(**{**vars(dataset), "images": Counted(dataset.images.pixels, dataset.labels, dataset.classes)})
    batches = EvaluationBatches(counted, np.arange(60), 25, keep_mb=keep_mb)
    next(iter(batches))
    seen.clear()
    for _ in range(3):
        assert len(by_item(batches)) == 60
    assert len(seen) == decoded


def test_no_images_to_evaluate_stop(dataset):
    """An accuracy over nothing is not 0."""
    with pytest.raises(ValueError, match="0 images of 'noise'"):
        EvaluationBatches(dataset, np.array([], dtype=np.int64), 8)


# Broken images


class Damaged(ArrayImages):
    """Images some of which cannot be decoded."""

    bad: frozenset[int] = frozenset()

    def image(self, i):
        if int(i) in self.bad:
            raise ImageError(f"{i}.png cannot be decoded: cut")
        return super().image(i)


def damaged(dataset: DataSet, *bad: int, limit: int) -> DataSet:
    images = Damaged(dataset.images.pixels, dataset.labels, dataset.classes)
    object.__setattr__(images, "bad", frozenset(bad))
    return replace(dataset, images=images, broken=Broken("noise", limit))


def images(batches) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches])


def items(batches) -> list[int]:
    return [i for batch in batches for i in batch.items.tolist()]


@pytest.mark.parametrize("workers", [0, 2])
def test_another_image_takes_the_place_of_a_broken_one(dataset, workers):
    """Batches stay full, all other places are as without damage, and the label is that of the image that came instead."""
    whole = list(TrainingBatches(dataset, np.arange(60), 20, FULL, seed=1).epoch(2))
    found = list(TrainingBatches(damaged(dataset, 5, 17, limit=2), np.arange(60), 20, FULL, seed=1, workers=workers).epoch(2))
    before, after = np.array(items(whole)), np.array(items(found))
    hit = np.isin(before, [5, 17])
    assert [len(b.images) for b in found] == [20, 20, 20]
    assert np.array_equal(before[~hit], after[~hit]) and not set(after) & {5, 17}
    assert torch.equal(images(whole)[~hit], images(found)[~hit])
    assert all(b.labels.tolist() == (b.items % 3).tolist() for b in found)


def test_what_comes_instead_depends_on_seed_epoch_and_image(dataset):
    """The same in other batches, with other images broken too, after other epochs; another one in another epoch or for another seed."""

    def instead(*bad: int, batch: int = 20, seed: int = 1, epochs: tuple[int, ...] = (4,)) -> tuple[int, bytes]:
        whole = TrainingBatches(dataset, np.arange(60), batch, FULL, seed)
        batches = TrainingBatches(damaged(dataset, 5, *bad, limit=9), np.arange(60), batch, FULL, seed)
        found = [list(batches.epoch(e)) for e in epochs][-1]
        place = items(whole.epoch(epochs[-1])).index(5)
        return items(found)[place], images(found)[place].numpy().tobytes()

    expected = instead()
    assert expected == instead(batch=30) == instead(epochs=(0, 1, 4)) == instead(*({7, 8} - {expected[0]}))
    assert len({instead(epochs=(e,), seed=s)[0] for e in range(4) for s in range(2)}) > 3
    assert instead(expected[0])[0] not in {5, expected[0]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_told_once_and_counted_once(dataset, workers, capsys):
    """Over three epochs and two passes of evaluation each name comes once, with one line that counts them."""
    found = damaged(dataset, 5, 17, limit=2)
    batches = TrainingBatches(found, np.arange(60), 20, PLAIN, seed=1, workers=workers)
    for epoch in range(3):
        list(batches.epoch(epoch))
    evaluation = EvaluationBatches(found, np.arange(60), 16, workers=workers)
    assert items(evaluation) == items(evaluation) == sorted({*range(60)} - {5, 17})
    assert found.broken.metrics() == {"broken_files": 2}
    told = capsys.readouterr().out
    assert [told.count(words) for words in ("5.png", "17.png", "noise: broken files passed over: 2; 2 may be")] == [1, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [0, 1])
def test_more_broken_images_than_may_be_stop(dataset, workers, limit):
    """With the name of the one that is too many, the limit's key and no traceback of a worker's, in training and evaluation."""
    found = damaged(dataset, 5, 17, limit=limit)
    for batches in (
        TrainingBatches(found, np.arange(60), 20, PLAIN, seed=1, workers=workers).epoch(0),
        EvaluationBatches(replace(found, broken=Broken("noise", limit)), np.arange(60), 16, workers=workers),
    ):
        with pytest.raises(ImageError, match=rf"files are broken and {limit} may be.*split\.broken_files(.|\n)*(5|17)\.png") as told:
            list(batches)
        assert "Traceback" not in str(told.value)


def test_nothing_to_train_on_stops(dataset):
    """Where all images are broken and as many may be, there is nothing to take their places."""
    found = damaged(dataset, *range(60), limit=60)
    with pytest.raises(ImageError, match="none of the 60 images of 'noise'"):
        list(TrainingBatches(found, np.arange(60), 20, PLAIN, seed=0).epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep_mb", [0, 1])
def test_evaluation_leaves_broken_images_out(dataset, workers, keep_mb):
    """Every pass has the same batches, smaller by what is broken, and none where all of it is."""
    found = damaged(dataset, 1, 4, 5, 6, 7, limit=5)
    batches = EvaluationBatches(found, np.arange(12), 4, workers=workers, keep_mb=keep_mb)
    whole = by_item(EvaluationBatches(dataset, np.arange(12), 4))
    for _ in range(3):
        assert [b.items.tolist() for b in batches] == [[0, 2, 3], [8, 9, 10, 11]]
        assert all(torch.equal(image, whole[i]) for i, image in by_item(batches).items())


@pytest.mark.parametrize("augmentation", [PLAIN, FULL])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_images_of_a_pixel_are_trained_on(dataset, augmentation, shape):
    """One pixel, one row, one column: brought to the side like any other."""

    class Tiny(ArrayImages):
        def image(self, i):
            return np.full((*shape, 3), 200, dtype=np.uint8)

    tiny = replace(dataset, images=Tiny(dataset.images.pixels, dataset.labels, dataset.classes))
    assert [b.images.shape for b in TrainingBatches(tiny, np.arange(60), 30, augmentation, 0).epoch(0)] == [(30, 3, 12, 12)] * 2
    assert np.allclose(images(EvaluationBatches(tiny, np.arange(3), 3))[:, 0], (200 / 255 - 0.5) / 0.2)


# From outputs/split on disk


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


def image_folder(root: Path, rng: np.random.Generator, each: int = 40) -> Path:
    """Noise of different sizes, PNG and JPEG, in two classes."""
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(256, size=(20 + i % 3, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i:03d}.{'png' if i % 2 else 'jpg'}")
    return root


def test_read_gives_back_what_split_wrote(tmp_path):
    """The main set without a key, a transfer set by its key, with parts, images and statistics that fit together."""
    split(tmp_path)
    assert keys(tmp_path) == ("glyphs", "greek")
    main, greek = read(tmp_path), read(tmp_path, "greek")
    assert (main.key, main.classes, main.side, len(main.images)) == ("glyphs", tuple("ABCDE"), 12, 600)
    assert greek.parts.counts() == {"train": 79, "test": 26}
    images = torch.cat([b.images for b in EvaluationBatches(main, main.items("train"), 50)])
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-3)
    assert torch.allclose(images.std((0, 2, 3)), torch.ones(3), atol=1e-3)


def test_an_unknown_set_is_answered_with_those_there_are(tmp_path):
    """A key that split did not make stops with the list of keys; before split there is a word on how to run it."""
    with pytest.raises(FileNotFoundError, match="run: dvc repro split"):
        read(tmp_path)
    split(tmp_path)
    with pytest.raises(ValueError, match=r"no set 'cyrillic'.*\['glyphs', 'greek'\]"):
        read(tmp_path, "cyrillic")


@pytest.mark.parametrize("augmentation", [PLAIN, FULL])
def test_own_images_train(tmp_path, rng, augmentation):
    """PNG and JPEG files of several sizes come out as batches of one side, and each file is in one part."""
    root = image_folder(tmp_path / "pets", rng)
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"}, side=16)
    dataset = read(tmp_path / "out")
    assert isinstance(dataset.images, FolderImages) and dataset.key == "pets" and dataset.classes == ("cat", "dog")
    shapes = [b.images.shape for b in TrainingBatches(dataset, dataset.items("train"), 8, augmentation, seed=0).epoch(0)]
    assert shapes == [(8, 3, 16, 16)] * (len(dataset.items("train")) // 8)


def test_images_changed_since_the_split_stop(tmp_path, rng):
    """A file that was added later would shift all numbers."""
    root = image_folder(tmp_path / "pets", rng)
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"})
    Image.new("RGB", (20, 20)).save(root / "cat" / "late.png")
    with pytest.raises(ValueError, match=r"'pets' have changed since .*\(80 then, 81 now\)"):
        read(tmp_path / "out")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_broke_later_is_named(tmp_path, rng, workers):
    """A file cut after the split stops the epoch with its path, from a worker process too."""
    root = image_folder(tmp_path / "pets", rng)
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"})
    dataset = read(tmp_path / "out")
    path = dataset.images.paths[dataset.items("train")[0]]
    path.write_bytes(path.read_bytes()[:200])
    batches = TrainingBatches(dataset, dataset.items("train"), len(dataset.items("train")), PLAIN, seed=0, workers=workers)
    with pytest.raises(ImageError, match=path.name):
        list(batches.epoch(0))


def test_what_split_left_out_is_in_no_part_and_counts(tmp_path, rng):
    """Of three broken files that may be, split leaves two out; the register of the set that is read begins with them."""
    root = image_folder(tmp_path / "pets", rng)
    for name in ("cat/003.png", "dog/010.jpg"):
        (root / name).write_bytes(b"")
    split(tmp_path / "out", root=str(root), data={"name": "imagefolder"}, transfer=[], broken_files=3)
    dataset = read(tmp_path / "out")
    assert sum(dataset.parts.counts().values()) == 78 and len(dataset.images) == 80
    left_out = {i for i, path in enumerate(dataset.images.paths) if path.relative_to(root).as_posix() in ("cat/003.png", "dog/010.jpg")}
    assert not left_out & set(dataset.items("train", "predictor", "search", "val", "test").tolist())
    assert (dataset.broken.limit, dataset.broken.left_out) == (3, 2)
    for i in dataset.items("train")[:2]:
        dataset.images.paths[i].write_bytes(b"")
    with pytest.raises(ImageError, match="pets: 4 files are broken and 3 may be"):
        list(TrainingBatches(dataset, dataset.items("train"), len(dataset.items("train")), PLAIN, seed=0).epoch(0))

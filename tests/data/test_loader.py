"""Batches depend on seed, epoch and image only."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data.augmentation import Augmentation, AutoAugment
from nas.data.dataset import ImageDataset
from nas.data.decoding import BrokenFiles
from nas.data.loader import EvaluationBatches, TrainingBatches
from nas.data.sources import ArrayImages, ImageError
from nas.data.splits import Parts
from nas.data.torchvision_import import transforms
from nas.runtime.params import ParamsError, check

PLAIN = Augmentation(crop_scale=(1.0, 1.0), flip=False, policy="none")
FULL = Augmentation(crop_scale=(0.4, 1.0), flip=True, policy="svhn")


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    """60 noise images of 12 px, 3 classes; all for training."""
    pixels = np.random.default_rng(0).integers(256, size=(60, 12, 12, 3), dtype=np.uint8)
    images = ArrayImages(pixels, np.arange(60, dtype=np.int64) % 3, ("a", "b", "c"))
    parts = Parts(np.full(60, "train"))
    return ImageDataset("noise", "Noise", images, images.classes, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 12, parts, search_in_training=False)


def by_index(batches) -> dict[int, torch.Tensor]:
    """Index -> image."""
    return {int(i): image for batch in batches for i, image in zip(batch.indices, batch.images)}


def test_a_plain_batch_is_the_normalised_pixels(dataset):
    """Without augmentation an image is (pixel / 255 - mean) / std, channel by channel, with its label."""
    for batch in TrainingBatches(dataset, np.arange(60), 20, PLAIN, seed=0).epoch(0):
        pixels = dataset.images.pixels[batch.indices.numpy()] / 255
        expected = ((pixels - dataset.mean) / dataset.std).transpose(0, 3, 1, 2)
        assert batch.images.dtype == torch.float32 and batch.images.is_contiguous()
        assert np.allclose(batch.images, expected, atol=1e-5)
        assert batch.labels.tolist() == (batch.indices % 3).tolist() and batch.labels.dtype == torch.int64


def test_an_epoch_has_each_image_once_and_drops_an_incomplete_batch(dataset):
    """60 images in batches of 25: two batches of 25 different images, others in the next epoch."""
    batches = TrainingBatches(dataset, np.arange(60), 25, PLAIN, seed=0)
    first, second = (list(batches.epoch(e)) for e in (0, 1))
    assert batches.steps == 2 and [len(b.indices) for b in first] == [25, 25]
    assert len(by_index(first)) == 50
    assert list(by_index(first)) != list(by_index(second)) and by_index(first).keys() != by_index(second).keys()


def test_an_epoch_does_not_depend_on_earlier_ones(dataset):
    """Epoch 3 is the same after epochs 0 to 2 and as the first one, and differs from epoch 2."""
    uninterrupted, resumed = (TrainingBatches(dataset, np.arange(60), 16, FULL, seed=5) for _ in range(2))
    epochs = [list(uninterrupted.epoch(e)) for e in range(4)]
    resumed_epoch = list(resumed.epoch(3))
    assert all(torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) for a, b in zip(epochs[3], resumed_epoch, strict=True))
    before, after = by_index(epochs[2]), by_index(epochs[3])
    assert any(not torch.equal(before[i], after[i]) for i in before.keys() & after.keys())


def test_batch_size_does_not_change_the_augmentation(dataset):
    """In one epoch an image is augmented alike in a batch of 10 and of 30."""
    small, large = (by_index(TrainingBatches(dataset, np.arange(60), size, FULL, seed=1).epoch(2)) for size in (10, 30))
    assert small.keys() == large.keys()
    assert all(torch.equal(small[i], large[i]) for i in small)


def test_workers_do_not_change_batches(dataset):
    """Two worker processes give the batches of none, in the same order, in training and evaluation."""
    for own, by_workers in (
        (TrainingBatches(dataset, np.arange(60), 16, FULL, 1, workers=n).epoch(1) for n in (0, 2)),
        (EvaluationBatches(dataset, np.arange(60), 16, workers=n) for n in (0, 2)),
    ):
        for a, b in zip(own, by_workers, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices) and torch.equal(a.labels, b.labels)


def test_seeds_differ(dataset):
    """A different seed gives a different order and augmentation."""
    one, two = (by_index(TrainingBatches(dataset, np.arange(60), 60, FULL, seed).epoch(0)) for seed in (1, 2))
    assert list(one) != list(two)
    assert sum(not torch.equal(one[i], two[i]) for i in one) > 50


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_states_stay_unchanged(dataset, workers):
    """Loading augmented images draws nothing from the caller's generators."""
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(TrainingBatches(dataset, np.arange(60), 20, FULL, seed=0, workers=workers).epoch(0))
    list(EvaluationBatches(dataset, np.arange(60), 20, workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


@pytest.mark.parametrize("policy", ["imagenet", "cifar10", "svhn"])
def test_policies_equal_torchvisions(dataset, policy):
    """Over 60 images, the faster AutoAugment equals torchvision's from the same random state."""
    ours, theirs = (kind(transforms.AutoAugmentPolicy(policy)) for kind in (AutoAugment, transforms.AutoAugment))
    for i in range(60):
        image = Image.fromarray(dataset.images.image(i))
        results = []
        for augment in (ours, theirs):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(i)
                results.append(np.asarray(augment(image)))
        assert np.array_equal(*results)


def test_half_of_the_images_are_flipped(dataset):
    """With flips only, each image is unchanged or mirrored, both in 20 to 40 of 60 cases."""
    flipped = 0
    for i, image in by_index(TrainingBatches(dataset, np.arange(60), 60, PLAIN.model_copy(update={"flip": True}), 0).epoch(0)).items():
        plain = by_index(EvaluationBatches(dataset, np.array([i]), 1))[i]
        mirrored = torch.equal(image, plain.flip(2))
        assert mirrored or torch.equal(image, plain)
        flipped += mirrored
    assert 20 <= flipped <= 40


def test_too_few_images_for_a_batch_are_an_error(dataset):
    """The message has the key, the dataset and the number of images."""
    with pytest.raises(ValueError, match=r"params\.yaml: recipe\.batch: 64 is more than the 60 images of 'noise'"):
        TrainingBatches(dataset, np.arange(60), 64, PLAIN, seed=0)


@pytest.mark.parametrize("scale", [[0.5, 0.2], [0, 1], [0.5, 1.5]])
def test_impossible_crop_scales_are_an_error(scale):
    """Scales are shares of the area in ascending order."""
    with pytest.raises(ParamsError, match=r"a\.crop_scale: two shares of the area"):
        check({"a": {"crop_scale": scale, "flip": False, "policy": "none"}}, "a", Augmentation)


def test_evaluation_keeps_the_order_in_every_pass(dataset):
    """Images come in the order of the indices, the last batch is smaller, and a second pass equals the first."""
    batches = EvaluationBatches(dataset, np.array([5, 3, 40, 41, 7]), 2)
    passes = [list(batches) for _ in range(2)]
    assert len(batches) == 3
    for batches in passes:
        assert [b.indices.tolist() for b in batches] == [[5, 3], [40, 41], [7]]
        assert all(torch.equal(a.images, b.images) for a, b in zip(batches, passes[0]))


@pytest.mark.parametrize(("keep_mb", "decoded"), [(1, 60), (0, 180)])
def test_images_are_decoded_once_if_they_fit_into_memory(dataset, keep_mb, decoded):
    """Three passes over 60 images decode 60 if they fit, else 180; an unfinished pass caches nothing."""
    seen = []

    class Counted(ArrayImages):
        def image(self, i):
            seen.append(i)
            return super().image(i)

    counted = ImageDataset(**{**vars(dataset), "images": Counted(dataset.images.pixels, dataset.labels, dataset.classes)})
    batches = EvaluationBatches(counted, np.arange(60), 25, keep_mb=keep_mb)
    next(iter(batches))
    seen.clear()
    for _ in range(3):
        assert len(by_index(batches)) == 60
    assert len(seen) == decoded


def test_no_images_to_evaluate_are_an_error(dataset):
    """An accuracy over nothing is not 0."""
    with pytest.raises(ValueError, match="0 images of 'noise'"):
        EvaluationBatches(dataset, np.array([], dtype=np.int64), 8)


# Broken images


class Damaged(ArrayImages):
    """Images of which some cannot be decoded."""

    bad: frozenset[int] = frozenset()

    def image(self, i):
        if int(i) in self.bad:
            raise ImageError(f"{i}.png cannot be decoded: cut")
        return super().image(i)


def damaged(dataset: ImageDataset, *bad: int, limit: int) -> ImageDataset:
    images = Damaged(dataset.images.pixels, dataset.labels, dataset.classes)
    object.__setattr__(images, "bad", frozenset(bad))
    return replace(dataset, images=images, broken=BrokenFiles("noise", limit))


def images(batches) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches])


def indices(batches) -> list[int]:
    return [i for batch in batches for i in batch.indices.tolist()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_substitute_takes_the_place_of_a_broken_image(dataset, workers):
    """Batches stay full, all other images are unchanged, and the label is the substitute's."""
    intact = list(TrainingBatches(dataset, np.arange(60), 20, FULL, seed=1).epoch(2))
    substituted = list(TrainingBatches(damaged(dataset, 5, 17, limit=2), np.arange(60), 20, FULL, seed=1, workers=workers).epoch(2))
    before, after = np.array(indices(intact)), np.array(indices(substituted))
    hit = np.isin(before, [5, 17])
    assert [len(b.images) for b in substituted] == [20, 20, 20]
    assert np.array_equal(before[~hit], after[~hit]) and not set(after) & {5, 17}
    assert torch.equal(images(intact)[~hit], images(substituted)[~hit])
    assert all(b.labels.tolist() == (b.indices % 3).tolist() for b in substituted)


def test_the_substitute_depends_on_seed_epoch_and_image(dataset):
    """It is the same for other batch sizes, more broken images and earlier epochs; it differs by epoch and seed."""

    def substitute(*bad: int, batch: int = 20, seed: int = 1, epochs: tuple[int, ...] = (4,)) -> tuple[int, bytes]:
        intact = TrainingBatches(dataset, np.arange(60), batch, FULL, seed)
        batches = TrainingBatches(damaged(dataset, 5, *bad, limit=9), np.arange(60), batch, FULL, seed)
        last = [list(batches.epoch(e)) for e in epochs][-1]
        place = indices(intact.epoch(epochs[-1])).index(5)
        return indices(last)[place], images(last)[place].numpy().tobytes()

    expected = substitute()
    assert expected == substitute(batch=30) == substitute(epochs=(0, 1, 4)) == substitute(*({7, 8} - {expected[0]}))
    assert len({substitute(epochs=(e,), seed=s)[0] for e in range(4) for s in range(2)}) > 3
    assert substitute(expected[0])[0] not in {5, expected[0]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_reported_and_counted_once(dataset, workers, capsys):
    """Over three epochs and two evaluation passes each name is printed once, and one line counts them."""
    broken_dataset = damaged(dataset, 5, 17, limit=2)
    batches = TrainingBatches(broken_dataset, np.arange(60), 20, PLAIN, seed=1, workers=workers)
    for epoch in range(3):
        list(batches.epoch(epoch))
    evaluation = EvaluationBatches(broken_dataset, np.arange(60), 16, workers=workers)
    assert indices(evaluation) == indices(evaluation) == sorted({*range(60)} - {5, 17})
    assert broken_dataset.broken.metrics() == {"broken_files": 2}
    output = capsys.readouterr().out
    assert [output.count(text) for text in ("5.png", "17.png", "noise: 2 broken files skipped; 2 are tolerated")] == [1, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("limit", [0, 1])
def test_more_broken_images_than_tolerated_are_an_error(dataset, workers, limit):
    """The message has the file above the limit and the key, without a worker's traceback, in training and evaluation."""
    broken_dataset = damaged(dataset, 5, 17, limit=limit)
    for batches in (
        TrainingBatches(broken_dataset, np.arange(60), 20, PLAIN, seed=1, workers=workers).epoch(0),
        EvaluationBatches(replace(broken_dataset, broken=BrokenFiles("noise", limit)), np.arange(60), 16, workers=workers),
    ):
        with pytest.raises(ImageError, match=rf"files are broken, {limit} are tolerated.*split\.broken_files(.|\n)*(5|17)\.png") as caught:
            list(batches)
        assert "Traceback" not in str(caught.value)


def test_no_readable_training_image_is_an_error(dataset):
    """If all images are broken and tolerated, there is no substitute."""
    broken_dataset = damaged(dataset, *range(60), limit=60)
    with pytest.raises(ImageError, match="none of the 60 images of 'noise'"):
        list(TrainingBatches(broken_dataset, np.arange(60), 20, PLAIN, seed=0).epoch(0))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep_mb", [0, 1])
def test_evaluation_skips_broken_images(dataset, workers, keep_mb):
    """Every pass has the same batches, smaller by the broken images; a batch of broken images only is skipped."""
    broken_dataset = damaged(dataset, 1, 4, 5, 6, 7, limit=5)
    batches = EvaluationBatches(broken_dataset, np.arange(12), 4, workers=workers, keep_mb=keep_mb)
    intact = by_index(EvaluationBatches(dataset, np.arange(12), 4))
    for _ in range(3):
        assert [b.indices.tolist() for b in batches] == [[0, 2, 3], [8, 9, 10, 11]]
        assert all(torch.equal(image, intact[i]) for i, image in by_index(batches).items())


@pytest.mark.parametrize("augmentation", [PLAIN, FULL])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_images_of_one_pixel_are_resized(dataset, augmentation, shape):
    """One pixel, one row and one column become images of the dataset's side."""

    class Tiny(ArrayImages):
        def image(self, i):
            return np.full((*shape, 3), 200, dtype=np.uint8)

    tiny = replace(dataset, images=Tiny(dataset.images.pixels, dataset.labels, dataset.classes))
    assert [b.images.shape for b in TrainingBatches(tiny, np.arange(60), 30, augmentation, 0).epoch(0)] == [(30, 3, 12, 12)] * 2
    assert np.allclose(images(EvaluationBatches(tiny, np.arange(3), 3))[:, 0], (200 / 255 - 0.5) / 0.2)

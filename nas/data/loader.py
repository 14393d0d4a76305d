"""Batches of normalised images out of what stage split wrote.

Randomness is counted: the order of epoch e depends on (seed, e) and what is done to image i in it on (seed, e, i), not
on batch size, worker processes or what ran before; the caller's random states stay as they were. Augmentation as in
AttentiveNAS (arXiv:2011.09011), section 4.1: random resized crop, flip, AutoAugment (arXiv:1805.09501); all torchvision's.

An image that cannot be decoded is passed over, as long as params.yaml split.broken_files allows. In training another one
of those to train on takes its place in the batch, chosen by (seed, e, i) and augmented as it would have been, so batches
stay full. In evaluation its place stays empty: the batch is smaller, and no image counts twice.
"""

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field, ValidationError, field_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas.data.decoding import Broken, ImageError
from nas.data.sets import EMBEDDED, ArrayImages, Images, Source, fit, open_set
from nas.data.splits import Parts
from nas.data.vision import transforms
from nas.runtime.io import DocumentError, read_json, read_table, short
from nas.runtime.params import Section

AGAIN = "divide the images anew: dvc repro --force split"

T = TypeVar("T")


class Augmentation(Section):
    """What training does to an image."""

    crop_scale: tuple[float, float]  # part of the area that a random crop keeps; [1, 1]: no crop, the image as in evaluation
    flip: bool  # left-right, every second time
    policy: Literal["none", "imagenet", "cifar10", "svhn"]  # of AutoAugment

    @field_validator("crop_scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("two parts of the area are needed, the smaller first, each above 0 and at most 1")
        return scale


@dataclass(frozen=True)
class DataSet:
    """One set as stage split left it."""

    key: str
    title: str
    images: Images
    classes: tuple[str, ...]
    mean: tuple[float, float, float]  # of training pixels in [0, 1], per channel
    std: tuple[float, float, float]
    side: int  # pixels
    parts: Parts
    search_in_training: bool  # whether the part 'search' is to be trained on too, as in the paper
    broken: Broken = field(default_factory=Broken)  # the files that could not be decoded so far

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.images.labels

    def items(self, *parts: str) -> np.ndarray:
        """Images of these parts together, ascending, int64.

        Raises:
            ValueError: for a name that is no part, and if there is no such image.
        """
        return self.parts.items(*parts)


def keys(folder: Path) -> tuple[str, ...]:
    """Names of the sets in outputs/split: the main one, then the transfer sets."""
    found = _described(folder)
    return found["main"], *found["transfer"]


def read(folder: Path, key: str | None = None) -> DataSet:
    """Open a set that stage split wrote into `folder`; without a key, the main one.

    Raises:
        FileNotFoundError: if stage split has not run, or the images are gone.
        ValueError: for a key that it does not have, and if the images are no longer those that were divided.
    """
    found = _described(folder)
    key = found["main"] if key is None else key
    if key not in found["sets"]:
        raise ValueError(f"there is no set {key!r} in {folder}; params.yaml split made {list(found['sets'])}")
    entry = found["sets"][key]
    table = read_table(folder / "splits.parquet", AGAIN, columns=["label", "part"], filters=[("set", "==", key)])
    labels, classes = table["label"].to_numpy(np.int64), tuple(entry["classes"])
    source = Source(**entry["source"])
    if source.name in EMBEDDED:
        images = ArrayImages(_mapped(folder / "images" / f"{key}.npy"), labels, classes)
    else:
        images = open_set(source.model_copy(update={"download": None}), Path(entry["root"]), found["seed"], entry["side"])
    if len(images) != len(labels) or images.classes != classes or not np.array_equal(images.labels, labels):
        raise ValueError(
            f"the images of {key!r} have changed since they were divided ({len(labels)} then, {len(images)} now); run: dvc repro split"
        )
    parts = Parts(table["part"].to_numpy(dtype=str))
    mean, std = tuple(entry["mean"]), tuple(entry["std"])
    allowed = entry.get("broken_files", {"limit": 0, "left_out": []})
    broken = Broken(key, allowed["limit"], len(allowed["left_out"]))
    return DataSet(key, entry["title"], images, classes, mean, std, entry["side"], parts, found["search_in_training"], broken)


class _BrokenFiles(BaseModel):
    """Files of a set that were left out, each with what is wrong."""

    limit: Annotated[int, Field(ge=0)]
    left_out: list[str]


class _Set(BaseModel):
    """What is needed of a set's entry in sets.json."""

    title: str
    classes: list[str]
    source: Source
    side: Annotated[int, Field(ge=8)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    root: str
    broken_files: _BrokenFiles | None = None


class _Sets(BaseModel):
    """What is needed of sets.json."""

    main: str
    transfer: list[str]
    search_in_training: bool
    seed: Annotated[int, Field(ge=0)]
    sets: dict[str, _Set]


def _described(folder: Path) -> dict:
    path = folder / "sets.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; run: dvc repro split")
    found = read_json(path, lambda message: DocumentError(f"{message}; {AGAIN}"))
    try:
        _Sets.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise DocumentError(f"{path} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}; {AGAIN}") from None
    return found


def _mapped(path: Path) -> np.ndarray:
    """Pixels (n, side, side, 3) uint8, left in their file.

    Raises:
        FileNotFoundError: if there is no such file.
        DocumentError: if it holds something else.
    """
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy raises many kinds for a file that is none of its own
        raise DocumentError(f"{path} is damaged: {short(str(error))}; {AGAIN}") from None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        form = (pixels.dtype, pixels.shape) if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DocumentError(f"{path} is damaged: pixels (n, side, side, 3) uint8 are needed, found {form}; {AGAIN}")
    return pixels


@dataclass(frozen=True)
class Batch:
    """Images to feed a network."""

    images: Tensor  # (batch, 3, side, side) float32, normalised
    labels: Tensor  # (batch,) int64
    items: Tensor  # (batch,) int64, places in the set

    def pin_memory(self) -> Self:
        return type(self)(self.images.pin_memory(), self.labels.pin_memory(), self.items.pin_memory())


class TrainingBatches:
    """Augmented images in a new order each epoch; what does not fill a batch is left out of that epoch."""

    def __init__(
        self,
        dataset: DataSet,
        items: np.ndarray,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
        share: slice = slice(None),
    ) -> None:
        """Batches of `batch` of the images `items` (n,), decoded by `workers` processes, or in this one for 0.

        Args:
            share: the places of each batch that this process works on.

        Raises:
            ValueError: if there are fewer images than fill one batch.
        """
        if not 1 <= batch <= len(items):
            raise ValueError(
                f"recipe.batch {batch}: {dataset.key!r} has {len(items)} images to train on; lower recipe.batch in params.yaml"
            )
        self.dataset, self.items, self.batch, self.augmentation, self.seed = dataset, np.asarray(items), batch, augmentation, seed
        self.workers, self.pin_memory, self.share = workers, pin_memory, share

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.items) // self.batch

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0.

        Raises:
            ImageError: for more broken images than may be, or if all are.
        """
        order = np.random.default_rng([self.seed, crc32(b"order"), epoch]).permutation(self.items)
        chunks = [order[i * self.batch : (i + 1) * self.batch][self.share] for i in range(self.steps)]
        augmented = _Augmented(self.dataset, self.items, chunks, self.augmentation, self.seed, epoch)
        for batch in _counted(_loader(augmented, self.workers, self.pin_memory), self.dataset.broken):
            if batch is None:
                raise ImageError(f"none of the {len(self.items)} images of {self.dataset.key!r} to train on can be decoded")
            yield batch


class EvaluationBatches:
    """Images as they are, in the order given, as often as iterated over; decoded once if they fit into `keep_mb`.

    Broken ones, where such may be, are left out: batches are smaller by them, and one of broken ones alone does not come.
    """

    def __init__(self, dataset: DataSet, items: np.ndarray, batch: int, workers: int = 0, keep_mb: int = 2048) -> None:
        """Batches of `batch` of the images `items` (n,); the last may be smaller.

        Raises:
            ValueError: if there are no images.
        """
        if batch < 1 or not len(items):
            raise ValueError(f"{len(items)} images of {dataset.key!r} in batches of {batch}: at least one of each is needed")
        self.dataset, self.items, self.batch, self.workers = dataset, np.asarray(items), batch, workers
        self.in_memory = len(items) * dataset.side**2 * 3 <= keep_mb * 2**20
        self._kept: list[tuple[np.ndarray, Tensor]] | None = None  # items and pixels, batch by batch

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.items) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for items, pixels in self._pixels() if self._kept is None else self._kept:
            yield _batch(self.dataset, items, pixels)

    def _pixels(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Each batch's items and pixels, (batch, 3, side, side) uint8; kept, in one piece of memory, after a whole pass."""
        keep = torch.empty((len(self.items), 3, self.dataset.side, self.dataset.side), dtype=torch.uint8) if self.in_memory else None
        chunks = [self.items[i : i + self.batch] for i in range(0, len(self.items), self.batch)]
        kept, n = [], 0
        for items, pixels in _counted(_loader(_Plain(self.dataset, chunks), self.workers), self.dataset.broken):
            if keep is not None and len(items):
                part = keep[n : n + len(items)]
                part.copy_(pixels)
                kept.append((items, part))
                n += len(items)
            if len(items):
                yield items, pixels
        if keep is not None:
            self._kept = kept


def _counted(loaded: Iterable[tuple[T, dict[int, str]]], broken: Broken) -> Iterator[T]:
    """What was loaded, after the broken files that were met on the way are registered."""
    for found, met in loaded:
        broken.add(met)
        yield found
    broken.tell()


@dataclass
class _Plain(Dataset):
    """Chunk of items -> those that can be decoded, with uint8 pixels; and the broken ones."""

    dataset: DataSet
    chunks: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, n: int) -> tuple[tuple[np.ndarray, Tensor | None], dict[int, str]]:
        pixels, broken = [], {}
        for item in self.chunks[n]:
            try:
                pixels.append(fit(self.dataset.images.image(item), self.dataset.side))
            except ImageError as error:
                broken[int(item)] = str(error)
        items = np.array([i for i in self.chunks[n] if int(i) not in broken], dtype=np.int64) if broken else self.chunks[n]
        return (items, _stack(pixels) if pixels else None), broken


@dataclass
class _Augmented(Dataset):
    """Chunk of items -> training batch, or None if no image at all can be decoded; and the broken ones."""

    dataset: DataSet
    items: np.ndarray  # all to train on: one of them comes instead of a broken one
    chunks: list[np.ndarray]
    augmentation: Augmentation
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, n: int) -> tuple[Batch | None, dict[int, str]]:
        shown, pixels, broken = self.chunks[n].copy(), [], {}
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global state
            for place, item in enumerate(self.chunks[n]):
                found = self._readable(int(item), broken)
                if found is None:
                    return None, broken
                shown[place], image = found
                pixels.append(self._draw(image, item))
        return _batch(self.dataset, shown, _stack(pixels)), broken

    def _readable(self, item: int, broken: dict[int, str]) -> tuple[int, np.ndarray] | None:
        """The item and its image, or, if that is broken, those of another; None if too many are. Adds to `broken`."""
        tried, others = item, None
        while True:
            try:
                return tried, self.dataset.images.image(tried)
            except ImageError as error:
                broken[tried] = str(error)
            if len(broken) > self.dataset.broken.limit or len(broken) == len(self.items):
                return None
            others = others or np.random.default_rng([self.seed, crc32(b"instead"), self.epoch, item])
            tried = int(self.items[others.integers(len(self.items))])

    def _draw(self, image: np.ndarray, item: int) -> np.ndarray:
        """Augmented as the item is in this epoch."""
        side = self.dataset.side
        cropped = self.augmentation.crop_scale != (1.0, 1.0)
        if not cropped:
            image = fit(image, side)
        if not self._steps.transforms:
            return image
        counted = np.random.SeedSequence([self.seed, crc32(b"augment"), self.epoch, int(item)])
        torch.default_generator.manual_seed(int(counted.generate_state(1)[0]))
        return np.asarray(self._steps(Image.fromarray(image)))

    @cached_property
    def _steps(self) -> transforms.Compose:
        a, steps = self.augmentation, []
        if a.crop_scale != (1.0, 1.0):
            steps.append(transforms.RandomResizedCrop(self.dataset.side, scale=a.crop_scale))
        if a.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if a.policy != "none":
            steps.append(AutoAugment(transforms.AutoAugmentPolicy(a.policy)))
        return transforms.Compose(steps)


class AutoAugment(transforms.AutoAugment):
    """torchvision's, with its table of magnitudes built once an image size, not once an image."""

    def _augmentation_space(self, num_bins: int, image_size: tuple[int, int]) -> dict:
        return _magnitudes(num_bins, image_size)


@lru_cache
def _magnitudes(bins: int, size: tuple[int, int]) -> dict:
    return transforms.AutoAugment()._augmentation_space(bins, size)


def _stack(images: list[np.ndarray]) -> Tensor:
    """(batch, 3, side, side) uint8, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def _batch(dataset: DataSet, items: np.ndarray, pixels: Tensor) -> Batch:
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (dataset.mean, dataset.std))
    images = pixels.to(torch.float32).sub_(mean).div_(std)
    return Batch(images, torch.tensor(dataset.labels[items]), torch.tensor(items))


def _loader(dataset: Dataset, workers: int, pin_memory: bool = False) -> DataLoader:
    """One entry of `dataset` at a time, in order, by worker processes or here."""
    ways = multiprocessing.get_all_start_methods()
    return DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it would draw a number from the global one
        multiprocessing_context=("fork" if "fork" in ways else "spawn") if workers else None,
    )


def _as_it_is(found: object) -> object:
    return found

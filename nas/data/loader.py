"""Batches of normalised images for training and evaluation.

Randomness is counter-based: the order of epoch e depends on (seed, e), the augmentation of image i in it on (seed, e, i), not
on batch size, worker processes or earlier calls; the caller's random states stay unchanged. Augmentation as in
AttentiveNAS (arXiv:2011.09011), section 4.1: random resized crop, flip, AutoAugment (arXiv:1805.09501), by torchvision.

An image that cannot be decoded is skipped, as long as params.yaml split.broken_files allows it. In training a substitute
takes its place in the batch: another training image, chosen by (seed, e, i) and augmented with the random numbers of image i,
so batches stay full. In evaluation the batch is smaller, and no image counts twice.
"""

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeVar
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas.data.augmentation import Augmentation, random_transforms
from nas.data.dataset import ImageDataset
from nas.data.decoding import BrokenFiles, ImageError
from nas.data.sources import centre_crop
from nas.data.torchvision_import import transforms

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """One batch of images."""

    images: Tensor  # (batch, 3, side, side) float32, normalised
    labels: Tensor  # (batch,) int64
    indices: Tensor  # (batch,) int64, of the images in the dataset

    def pin_memory(self) -> Self:
        return type(self)(self.images.pin_memory(), self.labels.pin_memory(), self.indices.pin_memory())


class TrainingBatches:
    """Augmented images in a new order each epoch; an incomplete last batch is dropped."""

    def __init__(
        self,
        dataset: ImageDataset,
        indices: np.ndarray,
        batch: int,
        augmentation: Augmentation,
        seed: int,
        workers: int = 0,
        pin_memory: bool = False,
        share: slice = slice(None),
        key: str = "params.yaml: recipe.batch",
    ) -> None:
        """Batches of `batch` of the images `indices` (n,), decoded by `workers` processes, or in this one for 0.

        Args:
            share: the part of each batch that this process trains on.
            key: file and key of the batch size, for messages.

        Raises:
            ValueError: if there are fewer images than one batch needs.
        """
        if not 1 <= batch <= len(indices):
            raise ValueError(f"{key}: {batch} is more than the {len(indices)} images of {dataset.key!r} to train on; lower it")
        self.dataset, self.indices, self.batch, self.augmentation, self.seed = dataset, np.asarray(indices), batch, augmentation, seed
        self.workers, self.pin_memory, self.share = workers, pin_memory, share

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return len(self.indices) // self.batch

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, counted from 0.

        Raises:
            ImageError: for more broken images than split.broken_files allows, or if all are broken.
        """
        order = np.random.default_rng([self.seed, crc32(b"order"), epoch]).permutation(self.indices)
        chunks = [order[i * self.batch : (i + 1) * self.batch][self.share] for i in range(self.steps)]
        augmented = _AugmentedChunks(self.dataset, self.indices, chunks, self.augmentation, self.seed, epoch)
        for batch in _register_broken(_loader(augmented, self.workers, self.pin_memory), self.dataset.broken):
            if batch is None:
                raise ImageError(f"none of the {len(self.indices)} images of {self.dataset.key!r} to train on can be decoded")
            yield batch


class EvaluationBatches:
    """Images without augmentation, in order, for any number of passes; decoded once if they fit into `keep_mb`.

    Broken images are left out: their batch is smaller, and a batch of broken images only is skipped.
    """

    def __init__(self, dataset: ImageDataset, indices: np.ndarray, batch: int, workers: int = 0, keep_mb: int = 2048) -> None:
        """Batches of `batch` of the images `indices` (n,); the last may be smaller.

        Raises:
            ValueError: if there are no images.
        """
        if batch < 1 or not len(indices):
            raise ValueError(f"{len(indices)} images of {dataset.key!r} in batches of {batch}: at least one of each is needed")
        self.dataset, self.indices, self.batch, self.workers = dataset, np.asarray(indices), batch, workers
        self.in_memory = len(indices) * dataset.side**2 * 3 <= keep_mb * 2**20
        self._cache: list[tuple[np.ndarray, Tensor]] | None = None  # indices and pixels, batch by batch

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.indices) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        for indices, pixels in self._pixels() if self._cache is None else self._cache:
            yield _batch(self.dataset, indices, pixels)

    def _pixels(self) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Indices and pixels of each batch, (batch, 3, side, side) uint8; cached in one block of memory by a complete pass."""
        memory = torch.empty((len(self.indices), 3, self.dataset.side, self.dataset.side), dtype=torch.uint8) if self.in_memory else None
        chunks = [self.indices[i : i + self.batch] for i in range(0, len(self.indices), self.batch)]
        cache, n = [], 0
        for indices, pixels in _register_broken(_loader(_PlainChunks(self.dataset, chunks), self.workers), self.dataset.broken):
            if memory is not None and len(indices):
                part = memory[n : n + len(indices)]
                part.copy_(pixels)
                cache.append((indices, part))
                n += len(indices)
            if len(indices):
                yield indices, pixels
        if memory is not None:
            self._cache = cache


def _register_broken(loaded: Iterable[tuple[T, dict[int, str]]], broken: BrokenFiles) -> Iterator[T]:
    """The loaded chunks; the broken files among them are registered before each."""
    for chunk, errors in loaded:
        broken.add(errors)
        yield chunk
    broken.print_count()


@dataclass
class _PlainChunks(Dataset):
    """Chunk of indices -> ((the indices that can be decoded, uint8 pixels), the errors of the others)."""

    dataset: ImageDataset
    chunks: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, n: int) -> tuple[tuple[np.ndarray, Tensor | None], dict[int, str]]:
        pixels, errors = [], {}
        for i in self.chunks[n]:
            try:
                pixels.append(centre_crop(self.dataset.images.image(i), self.dataset.side))
            except ImageError as error:
                errors[int(i)] = str(error)
        indices = np.array([i for i in self.chunks[n] if int(i) not in errors], dtype=np.int64) if errors else self.chunks[n]
        return (indices, _stack(pixels) if pixels else None), errors


@dataclass
class _AugmentedChunks(Dataset):
    """Chunk of indices -> (training batch, or None if no image at all can be decoded; the errors of broken images)."""

    dataset: ImageDataset
    indices: np.ndarray  # all training images: substitutes of broken ones come from them
    chunks: list[np.ndarray]
    augmentation: Augmentation
    seed: int
    epoch: int

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, n: int) -> tuple[Batch | None, dict[int, str]]:
        indices, pixels, errors = self.chunks[n].copy(), [], {}
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global state
            for place, i in enumerate(self.chunks[n]):
                readable = self._read_or_substitute(int(i), errors)
                if readable is None:
                    return None, errors
                indices[place], image = readable
                pixels.append(self._augment(image, i))
        return _batch(self.dataset, indices, _stack(pixels)), errors

    def _read_or_substitute(self, i: int, errors: dict[int, str]) -> tuple[int, np.ndarray] | None:
        """Index and pixels of image i or, if it is broken, of another; None if too many are broken. Adds to `errors`."""
        candidate, rng = i, None
        while True:
            try:
                return candidate, self.dataset.images.image(candidate)
            except ImageError as error:
                errors[candidate] = str(error)
            if len(errors) > self.dataset.broken.limit or len(errors) == len(self.indices):
                return None
            rng = rng or np.random.default_rng([self.seed, crc32(b"instead"), self.epoch, i])
            candidate = int(self.indices[rng.integers(len(self.indices))])

    def _augment(self, image: np.ndarray, i: int) -> np.ndarray:
        """The image with the random numbers of (seed, epoch, i)."""
        if self.augmentation.crop_scale == (1.0, 1.0):
            image = centre_crop(image, self.dataset.side)
        if not self._transform.transforms:
            return image
        counter = np.random.SeedSequence([self.seed, crc32(b"augment"), self.epoch, int(i)])
        torch.default_generator.manual_seed(int(counter.generate_state(1)[0]))
        return np.asarray(self._transform(Image.fromarray(image)))

    @cached_property
    def _transform(self) -> transforms.Compose:
        return random_transforms(self.augmentation, self.dataset.side)


def _stack(images: list[np.ndarray]) -> Tensor:
    """(batch, 3, side, side) uint8, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))


def _batch(dataset: ImageDataset, indices: np.ndarray, pixels: Tensor) -> Batch:
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (dataset.mean, dataset.std))
    images = pixels.to(torch.float32).sub_(mean).div_(std)
    return Batch(images, torch.tensor(dataset.labels[indices]), torch.tensor(indices))


def _loader(chunks: Dataset, workers: int, pin_memory: bool = False) -> DataLoader:
    """One chunk at a time, in order, by worker processes or in this one."""
    methods = multiprocessing.get_all_start_methods()
    return DataLoader(
        chunks,
        batch_size=None,
        collate_fn=_identity,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else it would draw a number from the global one
        multiprocessing_context=("fork" if "fork" in methods else "spawn") if workers else None,
    )


def _identity(chunk: object) -> object:
    return chunk

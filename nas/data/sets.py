"""Sets of labelled images by name: drawn, in folders, or through torchvision.

Class count and image sizes are read off the data. `fit` and `statistics` are the preparation of AttentiveNAS
(arXiv:2011.09011, section 4.1): the centre 224/256 of a photograph, resized, and normalised per channel.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from nas.data import decoding, embedded, listing
from nas.data.decoding import Broken, ImageError
from nas.data.listing import SUFFIXES, Paths
from nas.runtime.params import Section

EMBEDDED = (*embedded.ALPHABETS, "digits")
CENTRE = 224 / 256  # part of a photograph's shorter side that is looked at in evaluation
SAMPLED = 10_000  # images that mean and standard deviation are taken over, at most

_TITLES = {
    "glyphs": "Latin letters",
    "greek": "Greek letters",
    "cyrillic": "Cyrillic letters",
    "digits": "Handwritten digits",
    "imagenet": "ImageNet",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "fashion_mnist": "Fashion-MNIST",
    "flowers102": "Oxford Flowers 102",
    "stanford_cars": "Stanford Cars",
    "food101": "Food-101",
}
_TORCHVISION = {  # name: (class in torchvision.datasets, splits to train on, test split; () stands for train=True/False)
    "imagenet": ("ImageNet", ("train",), "val"),
    "cifar10": ("CIFAR10", (True,), False),
    "cifar100": ("CIFAR100", (True,), False),
    "fashion_mnist": ("FashionMNIST", (True,), False),
    "flowers102": ("Flowers102", ("train", "val"), "test"),
    "stanford_cars": ("StanfordCars", ("train",), "test"),
    "food101": ("Food101", ("train",), "test"),
}
_BY_HAND = {  # sets whose owners let nobody download them by program
    "imagenet": "put ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into it",
    "stanford_cars": "put the folder stanford_cars (devkit, cars_train, cars_test, cars_test_annos_withlabels.mat) into it",
}


class Source(Section):
    """Where a set comes from: one entry of params.yaml split.data or split.transfer."""

    name: Literal[
        "glyphs", "greek", "cyrillic", "digits", "imagefolder", "imagenet", "cifar10", "cifar100", "fashion_mnist", "flowers102",
        "stanford_cars", "food101",
    ]  # fmt: skip
    images: int | None = Field(None, gt=0)  # drawn sets: how many
    difficulty: float | None = Field(None, ge=0, le=1)  # drawn sets: default 0.5
    alphabet: str | None = Field(None, min_length=2)  # drawn sets: one letter a class
    folder: str | None = None  # imagefolder: its place under the root
    download: bool | None = None  # torchvision sets: fetch what is missing

    @model_validator(mode="after")
    def _fits(self) -> Self:
        drawn, named = self.name in embedded.ALPHABETS, self.name in _TORCHVISION
        allowed = {"images": drawn, "difficulty": drawn, "alphabet": drawn, "folder": self.name == "imagefolder", "download": named}
        for key, fits in allowed.items():
            if getattr(self, key) is not None and not fits:
                raise ValueError(
                    f"{key} has no meaning for {self.name}; it takes {[k for k, v in allowed.items() if v] or 'no further keys'}"
                )
        if drawn and self.images is None:
            raise ValueError(f"{self.name} is drawn: it needs images, their number")
        return self

    def key(self, root: Path) -> str:
        """What the set is called in files: its name, or the folder's for an imagefolder."""
        return (root / (self.folder or "")).resolve().name if self.name == "imagefolder" else self.name

    def title(self, root: Path) -> str:
        """What the set is called in text."""
        return _TITLES.get(self.name, self.key(root))


class Images(Protocol):
    """Labelled images of any size."""

    labels: np.ndarray  # (n,) int64
    classes: tuple[str, ...]
    test: np.ndarray | None  # (n,) bool: the test part that the set comes with, if it does

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray:
        """Pixels (height, width, 3) uint8.

        Raises:
            ImageError: if the file cannot be decoded; names it.
        """


@dataclass(frozen=True)
class ArrayImages:
    """Images of one size, in memory or mapped from a file."""

    pixels: np.ndarray  # (n, side, side, 3) uint8
    labels: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, i: int) -> np.ndarray:
        return self.pixels[i]


@dataclass(frozen=True)
class FolderImages:
    """Image files in one folder a class."""

    paths: Sequence[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray | None = None

    @classmethod
    def find(cls, root: Path) -> Self:
        """root/<class>/*.png|jpg|jpeg|webp|bmp, or the same under root/train and root/test (or root/val).

        With both test and val, the images of val join those of train. Names that begin with a dot are passed over, and
        what is in a class folder beside images. Links are followed; two that lead to one class folder are an error.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: for fewer than two class folders, one without images, the same one twice, other classes in test
                than in train, a link to nothing instead of a class folder, and archives: nothing is unpacked.
        """
        listing.need_folder(root)
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; params.yaml split.root and split.transfer_root say where images are")
        names = [name for name in ("train", "val", "test") if (root / name).is_dir()] if (root / "train").is_dir() else [""]
        classes = listing.class_folders(root / names[0])
        for name in names[1:]:
            found = listing.class_folders(root / name)
            if found != classes:
                odd = sorted(set(found) ^ set(classes))
                raise ValueError(
                    f"{root / name} has {len(found)} class folders, {root / 'train'} has {len(classes)}; in one only: {odd[:5]}"
                )
        folders = [root / name / label for name in names for label in classes]
        listing.refuse_twins(folders)
        counts = []

        def inside() -> Iterator[tuple[str, list[str]]]:
            for folder in folders:
                files = listing.image_names(folder)
                counts.append(len(files))
                yield str(folder), files

        paths = Paths(inside())
        if empty := [folder for folder, count in zip(folders, counts) if not count]:
            raise ValueError(f"no images ({', '.join(SUFFIXES)}) in {empty[0]} ({len(empty)} such folders); fill or remove it")
        labels = np.repeat(np.tile(np.arange(len(classes), dtype=np.int64), len(names)), counts)
        test = np.repeat([name == names[-1] for name in names for _ in classes], counts) if len(names) > 1 else None
        return cls(paths, labels, tuple(classes), test)

    def __len__(self) -> int:
        return len(self.paths)

    def look(self, i: int) -> None:
        """Read the file's head only.

        Raises:
            ImageError: if it is not that of an image.
        """
        decoding.look(self.paths[i])

    def image(self, i: int) -> np.ndarray:
        return decoding.decode(self.paths[i])


@dataclass(frozen=True)
class TorchvisionImages:
    """A data set of torchvision's, its training splits before its test split."""

    name: str
    splits: tuple  # of torchvision data sets, or of `_Files` for those that keep their images in files
    labels: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray

    @classmethod
    def find(cls, name: str, root: Path, download: bool) -> Self:
        """Open the set in `root`.

        Raises:
            FileNotFoundError: if it is not there, with how to get it.
        """
        from nas.data.vision import datasets  # loads torch

        kind, train, test = _TORCHVISION[name]
        keyword = "train" if isinstance(test, bool) else "split"
        fetch = {} if name in _BY_HAND else {"download": download}
        try:
            splits = tuple(getattr(datasets, kind)(root, **{keyword: part}, **fetch) for part in (*train, test))
        except Exception as error:  # torchvision passes on whatever torch, scipy and json make of a damaged file
            way = _BY_HAND.get(name, "set download: true beside its name in params.yaml split to fetch it there")
            raise FileNotFoundError(f"{name} is not complete in {root} ({error}); {way}") from None
        labels = [np.asarray(_torchvision_labels(split), dtype=np.int64) for split in splits]
        is_test = np.repeat([False] * len(train) + [True], [len(part) for part in labels])
        return cls(name, tuple(map(_Files.of, splits)), np.concatenate(labels), _torchvision_classes(splits[0]), is_test)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> np.ndarray:
        place = i
        for split in self.splits:
            if place < len(split):
                what = split.paths[place] if isinstance(split, _Files) else f"image {i}"
                with decoding.naming(what, f"of {self.name} cannot be decoded"):
                    return decoding.rgb(split[place][0])
            place -= len(split)
        raise IndexError(i)


@dataclass(frozen=True)
class _Files:
    """The images of a torchvision data set without its lists of a million Python objects; decoded as it decodes them."""

    paths: Paths
    load: Callable[[Path], Image.Image]

    @classmethod
    def of(cls, split: object) -> object:
        """Of a split that keeps its images in files; any other as it is."""
        from nas.data.vision import datasets

        files = _torchvision_files(split)
        return split if files is None else cls(Paths.of(files), getattr(split, "loader", datasets.folder.default_loader))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Image.Image]:
        return (self.load(self.paths[i]),)


def open_set(source: Source, root: Path, seed: int, side: int) -> Images:
    """The set, drawn or found.

    Args:
        source: which.
        root: the folder that holds it; drawn sets and digits need none.
        seed: of drawn sets.
        side: pixels; of drawn sets and digits, others keep the sizes of their files.

    Raises:
        FileNotFoundError, ValueError: if it is not there or not usable.
    """
    if source.name in embedded.ALPHABETS:
        alphabet = source.alphabet or embedded.ALPHABETS[source.name]
        difficulty = 0.5 if source.difficulty is None else source.difficulty
        return ArrayImages(*embedded.draw(source.name, alphabet, source.images, side, seed, difficulty), tuple(alphabet))
    if source.name == "digits":
        return ArrayImages(*embedded.digits(side), tuple("0123456789"))
    if source.name == "imagefolder":
        return FolderImages.find(root / (source.folder or ""))
    return TorchvisionImages.find(source.name, root, bool(source.download))


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """The image as evaluation sees it, (side, side, 3) uint8.

    (height, width, 3) uint8 in: as it is if it has that size, else its centre, 224/256 of its shorter side, resized.
    """
    height, width = image.shape[:2]
    if height == width == side:
        return image
    edge = CENTRE * min(height, width)
    left, top = (width - edge) / 2, (height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=box))


def statistics(images: Images, items: np.ndarray, side: int, broken: Broken | None = None) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels of these images, per channel, in [0, 1].

    Of at most `SAMPLED` images, evenly spaced among them; broken ones among those do not count.

    Args:
        broken: where these are registered; without, there may be none.

    Raises:
        ImageError: for more broken images than may be.
        ValueError: if all pixels of a channel are equal.
    """
    chosen = items[:: -(-len(items) // SAMPLED)]
    broken = Broken() if broken is None else broken
    total, squares, counted = np.zeros(3), np.zeros(3), 0
    for i in chosen:
        try:
            pixels = fit(images.image(i), side).reshape(-1, 3).astype(np.float64)
        except ImageError as error:
            broken.add({int(i): str(error)})
            continue
        total += pixels.sum(axis=0)
        squares += (pixels**2).sum(axis=0)
        counted += 1
    mean = total / (max(counted, 1) * side * side)
    variance = squares / (max(counted, 1) * side * side) - mean**2
    if variance.min() < 1e-6:
        raise ValueError(f"a colour channel is the same in all pixels of {counted} training images (means {mean}): nothing to learn from")
    return [round(float(m) / 255, 6) for m in mean], [round(float(v) ** 0.5 / 255, 6) for v in variance]


def check(images: Images, decode: bool, track: Callable[[range], Iterable[int]] = iter, limit: int = 0) -> dict[int, str]:
    """Every file opens and, if asked, decodes; those that do not, ascending, each with its path and what is wrong.

    Args:
        images: which.
        decode: read all pixels, not only the files' heads.
        track: wraps the loop to show progress.
        limit: how many may be broken.

    Raises:
        ImageError: for more than that, naming the first of them and their number.
    """
    read = images.image if decode else getattr(images, "look", None)
    if read is None or isinstance(images, ArrayImages):
        return {}

    def failure(i: int) -> str | None:
        try:
            read(i)
        except ImageError as error:
            return str(error)
        return None

    failures, many, chunk = {}, 0, 1000
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        for start in track(range(0, len(images), chunk)):
            items = range(start, min(start + chunk, len(images)))
            found = {i: message for i, message in zip(items, pool.map(failure, items)) if message}
            many += len(found)
            failures |= found if len(failures) < limit + 10 else {}  # a million messages would fill the memory
    if many > limit:
        raise ImageError(decoding.over_limit(list(failures.values()), f"{many} of {len(images)} files", limit))
    return failures


def _torchvision_labels(split: object) -> Iterable[int]:
    """Without decoding an image; each set of torchvision's keeps them under another name."""
    if hasattr(split, "targets"):
        return split.targets
    return [label for _, label in split._samples] if hasattr(split, "_samples") else split._labels


def _torchvision_files(split: object) -> Iterable[str | Path] | None:
    """Paths of the images, likewise; None where they lie in arrays."""
    if hasattr(split, "_image_files"):
        return split._image_files
    samples = getattr(split, "samples", None) or getattr(split, "_samples", None)
    return None if samples is None else (path for path, _ in samples)


def _torchvision_classes(split: object) -> tuple[str, ...]:
    names = [name[0] if isinstance(name, tuple) else str(name) for name in split.classes]  # ImageNet lists synonyms
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))

"""Sources of labelled images: drawn, in class folders, or through torchvision.

Class count and image sizes are read from the data. `centre_crop` and `statistics` are the preprocessing of AttentiveNAS
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
from nas.data.decoding import BrokenFiles, ImageError
from nas.data.listing import SUFFIXES, Paths
from nas.runtime.params import Section

EMBEDDED = (*embedded.ALPHABETS, "digits")
CENTRE_FRACTION = 224 / 256  # of a photograph's shorter side, used in evaluation
MAX_STATISTICS_IMAGES = 10_000  # images behind mean and standard deviation

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
_BY_HAND = {  # datasets that cannot be downloaded by a program
    "imagenet": "put ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into it",
    "stanford_cars": "put the folder stanford_cars (devkit, cars_train, cars_test, cars_test_annos_withlabels.mat) into it",
}


class Source(Section):
    """Where a dataset comes from: one entry of params.yaml split.data or split.transfer."""

    name: Literal[
        "glyphs", "greek", "cyrillic", "digits", "imagefolder", "imagenet", "cifar10", "cifar100", "fashion_mnist", "flowers102",
        "stanford_cars", "food101",
    ]  # fmt: skip
    images: int | None = Field(None, gt=0)  # drawn datasets: number
    difficulty: float | None = Field(None, ge=0, le=1)  # drawn datasets: default 0.5
    alphabet: str | None = Field(None, min_length=2)  # drawn datasets: one letter per class
    folder: str | None = None  # imagefolder: path under the root
    download: bool | None = None  # torchvision datasets: download missing files

    @model_validator(mode="after")
    def _keys_apply(self) -> Self:
        drawn, torchvision = self.name in embedded.ALPHABETS, self.name in _TORCHVISION
        allowed = {"images": drawn, "difficulty": drawn, "alphabet": drawn, "folder": self.name == "imagefolder", "download": torchvision}
        for key, applies in allowed.items():
            if getattr(self, key) is not None and not applies:
                raise ValueError(
                    f"{key} has no meaning for {self.name}; it takes {[k for k, v in allowed.items() if v] or 'no further keys'}"
                )
        if drawn and self.images is None:
            raise ValueError(f"{self.name} is drawn: it needs images, their number")
        return self

    def key(self, root: Path) -> str:
        """The dataset's name in files: its own, or the folder's for an imagefolder."""
        return (root / (self.folder or "")).resolve().name if self.name == "imagefolder" else self.name

    def title(self, root: Path) -> str:
        """The dataset's name in text."""
        return _TITLES.get(self.name, self.key(root))


class Images(Protocol):
    """Labelled images of any size."""

    labels: np.ndarray  # (n,) int64
    classes: tuple[str, ...]
    test: np.ndarray | None  # (n,) bool: the dataset's own test part, if it has one

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
    """Image files, one folder per class."""

    paths: Sequence[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray | None = None

    @classmethod
    def find(cls, root: Path) -> Self:
        """root/<class>/*.png|jpg|jpeg|webp|bmp, or the same under root/train and root/test (or root/val).

        With both test and val, the images of val join those of train. Names that begin with a dot are skipped, and so are
        other files in a class folder. Links are followed; two links to one class folder are an error.

        Raises:
            FileNotFoundError: if there is no such folder.
            ValueError: for fewer than two class folders, a class folder without images, the same one twice, other classes in
                test than in train, a broken link instead of a class folder, and archives: nothing is unpacked.
        """
        listing.need_folder(root)
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; params.yaml split.root and split.transfer_root say where images are")
        names = [name for name in ("train", "val", "test") if (root / name).is_dir()] if (root / "train").is_dir() else [""]
        classes = listing.class_folders(root / names[0])
        for name in names[1:]:
            other_classes = listing.class_folders(root / name)
            if other_classes != classes:
                odd = sorted(set(other_classes) ^ set(classes))
                raise ValueError(
                    f"{root / name} has {len(other_classes)} class folders, {root / 'train'} has {len(classes)}; in one only: {odd[:5]}"
                )
        folders = [root / name / label for name in names for label in classes]
        listing.refuse_duplicates(folders)
        counts = []

        def listed_folders() -> Iterator[tuple[str, list[str]]]:
            for folder in folders:
                files = listing.image_names(folder)
                counts.append(len(files))
                yield str(folder), files

        paths = Paths(listed_folders())
        if empty := [folder for folder, count in zip(folders, counts) if not count]:
            raise ValueError(f"no images ({', '.join(SUFFIXES)}) in {empty[0]} ({len(empty)} such folders); fill or remove it")
        labels = np.repeat(np.tile(np.arange(len(classes), dtype=np.int64), len(names)), counts)
        test = np.repeat([name == names[-1] for name in names for _ in classes], counts) if len(names) > 1 else None
        return cls(paths, labels, tuple(classes), test)

    def __len__(self) -> int:
        return len(self.paths)

    def check_header(self, i: int) -> None:
        """Read the file's header only.

        Raises:
            ImageError: if it is not that of an image.
        """
        decoding.check_header(self.paths[i])

    def image(self, i: int) -> np.ndarray:
        return decoding.decode(self.paths[i])


@dataclass(frozen=True)
class TorchvisionImages:
    """A dataset of torchvision, its training splits before its test split."""

    name: str
    splits: tuple  # torchvision datasets, or `_Files` for datasets that keep their images in files
    labels: np.ndarray
    classes: tuple[str, ...]
    test: np.ndarray

    @classmethod
    def find(cls, name: str, root: Path, download: bool) -> Self:
        """Open the dataset in `root`.

        Raises:
            FileNotFoundError: if it is not there; says how to get it.
        """
        from nas.data.torchvision_import import datasets  # loads torch

        class_name, train, test = _TORCHVISION[name]
        keyword = "train" if isinstance(test, bool) else "split"
        download_option = {} if name in _BY_HAND else {"download": download}
        try:
            splits = tuple(getattr(datasets, class_name)(root, **{keyword: part}, **download_option) for part in (*train, test))
        except Exception as error:  # torchvision passes on the errors of torch, scipy and json for a damaged file
            hint = _BY_HAND.get(name, "set download: true beside its name in params.yaml split to download it")
            raise FileNotFoundError(f"{name} is not complete in {root} ({error}); {hint}") from None
        labels = [np.asarray(_torchvision_labels(split), dtype=np.int64) for split in splits]
        is_test = np.repeat([False] * len(train) + [True], [len(part) for part in labels])
        return cls(name, tuple(map(_Files.of, splits)), np.concatenate(labels), _torchvision_classes(splits[0]), is_test)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, i: int) -> np.ndarray:
        index = i
        for split in self.splits:
            if index < len(split):
                name = split.paths[index] if isinstance(split, _Files) else f"image {i}"
                with decoding.image_errors(name, f"of {self.name} cannot be decoded"):
                    return decoding.to_rgb(split[index][0])
            index -= len(split)
        raise IndexError(i)


@dataclass(frozen=True)
class _Files:
    """The images of a torchvision dataset without its lists of a million Python objects; decoded by its own loader."""

    paths: Paths
    load: Callable[[Path], Image.Image]

    @classmethod
    def of(cls, split: object) -> object:
        """A split that keeps its images in files becomes `_Files`; any other is returned unchanged."""
        from nas.data.torchvision_import import datasets

        files = _torchvision_files(split)
        return split if files is None else cls(Paths.of(files), getattr(split, "loader", datasets.folder.default_loader))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Image.Image]:
        return (self.load(self.paths[i]),)


def open_source(source: Source, root: Path, seed: int, side: int) -> Images:
    """The images of a source, drawn or read.

    Args:
        root: the folder of the dataset; drawn datasets and digits need none.
        seed: of drawn datasets.
        side: pixels, of drawn datasets and digits; others keep the sizes of their files.

    Raises:
        FileNotFoundError, ValueError: if the dataset is missing or unusable.
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


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The evaluation view of an image: (height, width, 3) uint8 -> (side, side, 3) uint8.

    An image of that size is returned unchanged; else its centre, 224/256 of its shorter side, is resized.
    """
    height, width = image.shape[:2]
    if height == width == side:
        return image
    edge = CENTRE_FRACTION * min(height, width)
    left, top = (width - edge) / 2, (height - edge) / 2
    box = (left, top, left + edge, top + edge)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=box))


def statistics(images: Images, indices: np.ndarray, side: int, broken: BrokenFiles | None = None) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels of these images, per channel, in [0, 1].

    At most `MAX_STATISTICS_IMAGES` images are used, evenly spaced; broken ones do not count.

    Args:
        broken: register of broken images; without it, none is tolerated.

    Raises:
        ImageError: for more broken images than tolerated.
        ValueError: if all pixels of a channel are equal.
    """
    chosen = indices[:: -(-len(indices) // MAX_STATISTICS_IMAGES)]
    broken = BrokenFiles() if broken is None else broken
    total, squares, counted = np.zeros(3), np.zeros(3), 0
    for i in chosen:
        try:
            pixels = centre_crop(images.image(i), side).reshape(-1, 3).astype(np.float64)
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
    """Open every file; returns index -> path and error of the broken ones, ascending.

    Args:
        decode: read all pixels, not only the files' headers.
        track: wraps the loop to show progress.
        limit: tolerated number of broken files.

    Raises:
        ImageError: for more than that; names the first of them and their number.
    """
    read = images.image if decode else getattr(images, "check_header", None)
    if read is None or isinstance(images, ArrayImages):
        return {}

    def failure(i: int) -> str | None:
        try:
            read(i)
        except ImageError as error:
            return str(error)
        return None

    failures, total, chunk = {}, 0, 1000
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter lock
        for start in track(range(0, len(images), chunk)):
            indices = range(start, min(start + chunk, len(images)))
            new = {i: message for i, message in zip(indices, pool.map(failure, indices)) if message}
            total += len(new)
            failures |= new if len(failures) < limit + 10 else {}  # a million messages would fill the memory
    if total > limit:
        raise ImageError(decoding.over_limit(list(failures.values()), f"{total} of {len(images)} files", limit))
    return failures


def _torchvision_labels(split: object) -> Iterable[int]:
    """Labels without decoding an image; torchvision's datasets keep them under different names."""
    if hasattr(split, "targets"):
        return split.targets
    return [label for _, label in split._samples] if hasattr(split, "_samples") else split._labels


def _torchvision_files(split: object) -> Iterable[str | Path] | None:
    """Paths of the images, likewise; None if they are kept in arrays."""
    if hasattr(split, "_image_files"):
        return split._image_files
    samples = getattr(split, "samples", None) or getattr(split, "_samples", None)
    return None if samples is None else (path for path, _ in samples)


def _torchvision_classes(split: object) -> tuple[str, ...]:
    names = [name[0] if isinstance(name, tuple) else str(name) for name in split.classes]  # ImageNet lists synonyms
    return tuple(f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names))

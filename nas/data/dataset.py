"""A dataset as stage split wrote it: images, labels, the part of each image, and the statistics to normalise by."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from nas.data.decoding import BrokenFiles
from nas.data.sources import EMBEDDED, ArrayImages, Images, Source, open_source
from nas.data.splits import Parts
from nas.runtime.io import DocumentError, read_json, read_table, short

RERUN_SPLIT = "split the images again: dvc repro --force split"


@dataclass(frozen=True)
class ImageDataset:
    """One dataset of outputs/split."""

    key: str
    title: str
    images: Images
    classes: tuple[str, ...]
    mean: tuple[float, float, float]  # of training pixels in [0, 1], per channel
    std: tuple[float, float, float]
    side: int  # pixels
    parts: Parts
    search_in_training: bool  # whether the part `search` is trained on too, as in the paper
    broken: BrokenFiles = field(default_factory=BrokenFiles)  # the files that could not be decoded so far

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.images.labels

    def indices(self, *parts: str) -> np.ndarray:
        """Indices of the images of these parts together, ascending, int64.

        Raises:
            ValueError: for an unknown part, and if the parts are empty.
        """
        return self.parts.indices(*parts)


def dataset_keys(folder: Path) -> tuple[str, ...]:
    """Names of the datasets in outputs/split: the main one, then the transfer datasets."""
    description = _read_description(folder)
    return description["main"], *description["transfer"]


def open_dataset(folder: Path, key: str | None = None) -> ImageDataset:
    """Open a dataset that stage split wrote into `folder`; without a key, the main one.

    Raises:
        FileNotFoundError: if stage split has not run, or the images are gone.
        ValueError: for an unknown key, and if the images are no longer those that were split.
    """
    description = _read_description(folder)
    key = description["main"] if key is None else key
    if key not in description["sets"]:
        raise ValueError(f"there is no dataset {key!r} in {folder}; params.yaml split made {list(description['sets'])}")
    entry = description["sets"][key]
    table = read_table(folder / "splits.parquet", RERUN_SPLIT, columns=["label", "part"], filters=[("set", "==", key)])
    labels, classes = table["label"].to_numpy(np.int64), tuple(entry["classes"])
    source = Source(**entry["source"])
    if source.name in EMBEDDED:
        images = ArrayImages(_map_pixels(folder / "images" / f"{key}.npy"), labels, classes)
    else:
        images = open_source(source.model_copy(update={"download": None}), Path(entry["root"]), description["seed"], entry["side"])
    if len(images) != len(labels) or images.classes != classes or not np.array_equal(images.labels, labels):
        raise ValueError(
            f"the images of {key!r} have changed since they were split ({len(labels)} then, {len(images)} now); run: dvc repro split"
        )
    parts = Parts(table["part"].to_numpy(dtype=str))
    mean, std = tuple(entry["mean"]), tuple(entry["std"])
    allowed = entry.get("broken_files", {"limit": 0, "left_out": []})
    broken = BrokenFiles(key, allowed["limit"], len(allowed["left_out"]))
    return ImageDataset(key, entry["title"], images, classes, mean, std, entry["side"], parts, description["search_in_training"], broken)


class _BrokenFilesEntry(BaseModel):
    """Files of a dataset that are left out, each with its error."""

    limit: Annotated[int, Field(ge=0)]
    left_out: list[str]


class _DatasetEntry(BaseModel):
    """The keys of a dataset's entry in sets.json that are read."""

    title: str
    classes: list[str]
    source: Source
    side: Annotated[int, Field(ge=8)]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    root: str
    broken_files: _BrokenFilesEntry | None = None


class _Description(BaseModel):
    """The keys of sets.json that are read."""

    main: str
    transfer: list[str]
    search_in_training: bool
    seed: Annotated[int, Field(ge=0)]
    sets: dict[str, _DatasetEntry]


def _read_description(folder: Path) -> dict:
    """The content of sets.json, checked."""
    path = folder / "sets.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; run: dvc repro split")
    description = read_json(path, lambda message: DocumentError(f"{message}; {RERUN_SPLIT}"))
    try:
        _Description.model_validate(description)
    except ValidationError as error:
        first = error.errors()[0]
        raise DocumentError(f"{path} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}; {RERUN_SPLIT}") from None
    return description


def _map_pixels(path: Path) -> np.ndarray:
    """Pixels (n, side, side, 3) uint8, memory-mapped.

    Raises:
        FileNotFoundError: if there is no such file.
        DocumentError: if it holds something else.
    """
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy raises many kinds for a file that is none of its own
        raise DocumentError(f"{path} is damaged: {short(str(error))}; {RERUN_SPLIT}") from None
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        form = (pixels.dtype, pixels.shape) if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DocumentError(f"{path} is damaged: pixels (n, side, side, 3) uint8 are needed, found {form}; {RERUN_SPLIT}")
    return pixels

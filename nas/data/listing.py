"""The image files of class folders, listed in little memory.

A million `pathlib` paths take hundreds of megabytes, and a forked worker process that looks at one writes to its
reference count: page by page, every worker gets a copy (torch's notes on `DataLoader`, "Multi-process data loading").
Here all names lie one after another in one buffer, with no Python object for each.
"""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import index, itemgetter
from pathlib import Path
from typing import Self

import numpy as np

from nas.data.decoding import printable

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")


class Paths(Sequence[Path]):
    """File paths in the order given: about ten bytes beside the name for each."""

    def __init__(self, folders: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Of (folder, names of files in it), consumed one after another."""
        names, bounds, kept, first = bytearray(), array("Q", [0]), [], []
        for folder, inside in folders:
            kept.append(folder)
            first.append(len(bounds) - 1)
            for name in inside:
                names += os.fsencode(name)
                bounds.append(len(names))
        self._folders, self._first = tuple(kept), tuple(first)  # and the number of its first file
        self._names = bytes(names)
        self._bounds = np.array(bounds)  # name i: from bounds[i] to bounds[i + 1]

    @classmethod
    def of(cls, files: Iterable[str | Path]) -> Self:
        """Of whole paths; it pays where neighbours share a folder."""
        return cls((folder, map(itemgetter(1), group)) for folder, group in groupby(map(os.path.split, files), key=itemgetter(0)))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, i: int) -> Path:
        i = index(i)
        if not 0 <= i < len(self):
            raise IndexError(f"{i}: the list has {len(self)} files")
        start, end = self._bounds[i : i + 2].tolist()
        return Path(self._folders[bisect_right(self._first, i) - 1], os.fsdecode(self._names[start:end]))


def need_folder(root: Path) -> None:
    """Check that a file, above all an archive, is not given for a folder.

    Raises:
        ValueError: says what to do.
    """
    if root.is_file():
        raise ValueError(
            f"{root} is {_UNPACK if _is_archive(root.name) else 'a file; a folder of class folders is needed'}; "
            "params.yaml split.root and split.transfer_root say where images are"
        )


def class_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, in order; links to folders too. Names that begin with a dot are passed over.

    Raises:
        ValueError: for fewer than two, a name that is no UTF-8, an archive or a link to nothing beside them.
    """
    names = []
    for entry in _visible(root):
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise ValueError(f"{printable(entry.path)} is a link to nothing; mend or remove it")
        if _is_folder(entry):
            names.append(entry.name)
    if len(names) < 2:
        found = f"only '{printable(names[0])}'" if names else "none"
        raise ValueError(f"{root} needs a folder of images for each of two or more classes; found {found}")
    if odd := [name for name in names if name != printable(name)]:
        raise ValueError(f"{root}: the name of the class folder '{printable(odd[0])}' is no UTF-8; rename it")
    return sorted(names)


def image_names(folder: str | Path) -> list[str]:
    """Names of the image files in a folder, in order, by their suffixes; links to nothing too, for the check to tell.

    Names that begin with a dot, folders, and whatever else is no file are passed over.

    Raises:
        ValueError: for an archive among them.
    """
    return sorted(entry.name for entry in _visible(folder) if entry.name.lower().endswith(SUFFIXES) and _is_file_or_nothing(entry))


def refuse_twins(folders: Iterable[Path]) -> None:
    """Check that no two of the folders are one and the same by a link.

    Raises:
        ValueError: names both; their images would be in two classes, or in the test part and in training.
    """
    seen: dict[str, Path] = {}
    for folder in folders:
        other = seen.setdefault(os.path.realpath(folder), folder)
        if other is not folder:
            raise ValueError(f"{other} and {folder} are the same folder: its images would be in two classes or parts; remove the link")


_UNPACK = "an archive, and nothing is unpacked here: unpack it, and move it away"


def _is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def _visible(folder: str | Path) -> Iterator[os.DirEntry]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_archive(entry.name) and not _is_folder(entry):
                raise ValueError(f"{printable(entry.path)} is {_UNPACK}")
            yield entry


# What is no link is known from the listing, without asking for each file. os.path takes a link that leads in a circle
# for one to nothing, where os.DirEntry raises.


def _is_folder(entry: os.DirEntry) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def _is_file_or_nothing(entry: os.DirEntry) -> bool:
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file(follow_symlinks=False)

"""Listing of image files in class folders, with little memory.

A million `pathlib` paths take hundreds of megabytes, and a forked worker process that reads one writes to its
reference count: page by page, every worker gets a copy (PyTorch's notes on `DataLoader`, "Multi-process data loading").
Here all names are stored in one buffer, without a Python object per file.
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
    """File paths in order; each takes its name plus about ten bytes."""

    def __init__(self, folders: Iterable[tuple[str, Iterable[str]]]) -> None:
        """From (folder, names of files in it), consumed one after another."""
        names, bounds, paths, first = bytearray(), array("Q", [0]), [], []
        for folder, files in folders:
            paths.append(folder)
            first.append(len(bounds) - 1)
            for name in files:
                names += os.fsencode(name)
                bounds.append(len(names))
        self._folders, self._first = tuple(paths), tuple(first)  # first: index of a folder's first file
        self._names = bytes(names)
        self._bounds = np.array(bounds)  # name i: from bounds[i] to bounds[i + 1]

    @classmethod
    def of(cls, files: Iterable[str | Path]) -> Self:
        """From full paths; saves memory where neighbours share a folder."""
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
    """Check that the path is not a file, e.g. an archive.

    Raises:
        ValueError: if it is; says what to do.
    """
    if root.is_file():
        raise ValueError(
            f"{root} is {_UNPACK if _is_archive(root.name) else 'a file; a folder of class folders is needed'}; "
            "params.yaml split.root and split.transfer_root say where images are"
        )


def class_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted, including links to folders. Names that begin with a dot are skipped.

    Raises:
        ValueError: for fewer than two, a name that is not UTF-8, an archive or a broken link among them.
    """
    names = []
    for entry in _visible(root):
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise ValueError(f"{printable(entry.path)} is a broken link; repair or remove it")
        if _is_folder(entry):
            names.append(entry.name)
    if len(names) < 2:
        listed = f"only '{printable(names[0])}'" if names else "none"
        raise ValueError(f"{root} needs a folder of images for each of two or more classes; found {listed}")
    if odd := [name for name in names if name != printable(name)]:
        raise ValueError(f"{root}: the name of the class folder '{printable(odd[0])}' is not UTF-8; rename it")
    return sorted(names)


def image_names(folder: str | Path) -> list[str]:
    """Names of the image files in a folder, sorted, chosen by suffix; broken links are included, so that the check reports them.

    Names that begin with a dot, folders and special files are skipped.

    Raises:
        ValueError: for an archive among them.
    """
    return sorted(entry.name for entry in _visible(folder) if entry.name.lower().endswith(SUFFIXES) and _is_file_or_nothing(entry))


def refuse_duplicates(folders: Iterable[Path]) -> None:
    """Check that no two paths lead to the same folder by a link.

    Raises:
        ValueError: names both; their images would be in two classes, or in training and test.
    """
    seen: dict[str, Path] = {}
    for folder in folders:
        other = seen.setdefault(os.path.realpath(folder), folder)
        if other is not folder:
            raise ValueError(f"{other} and {folder} are the same folder: its images would be in two classes or parts; remove the link")


_UNPACK = "an archive, and archives are not read: unpack it and move it away"


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


# The listing says which entries are not links, without a system call per file. os.path treats a circular link as broken,
# os.DirEntry raises.


def _is_folder(entry: os.DirEntry) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def _is_file_or_nothing(entry: os.DirEntry) -> bool:
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file(follow_symlinks=False)

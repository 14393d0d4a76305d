"""Split of a dataset into parts: seeded, stratified, disjoint.

AttentiveNAS (arXiv:2011.09011), section 4: the predictor is fitted on sub-networks measured on a part that is not trained
on, the search selects on another, and the final networks are tested on a third. `val` is for curves only: nothing is
trained or selected on it.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import Field
from sklearn.model_selection import train_test_split

from nas.data.sources import Source
from nas.runtime.params import Section

PARTS = ("train", "predictor", "search", "val", "test")
BROKEN = "broken"  # mark of an image that cannot be decoded and is in no part


class Split(Section):
    """Section `split` of params.yaml. Fractions: test of all images, the others of the rest."""

    root: str  # file or folder that the main data set comes from
    data: Source
    transfer_root: str  # folder that holds the data sets of the transfer
    transfer: tuple[Source, ...]
    side: int = Field(ge=8)  # pixels
    test: float = Field(gt=0, lt=1)
    predictor: float = Field(gt=0, lt=1)
    search: float = Field(gt=0, lt=1)
    val: float = Field(gt=0, lt=1)
    check_files: bool  # decode every file before the split
    broken_files: int = Field(ge=0)  # corrupt files tolerated per data set; they are listed and skipped


@dataclass(frozen=True)
class Parts:
    """The part of each image of a dataset."""

    parts: np.ndarray  # (n,) of PARTS, or BROKEN

    def indices(self, *names: str) -> np.ndarray:
        """Indices of the images of these parts, ascending, int64.

        Raises:
            ValueError: for an unknown part, and if the parts are empty.
        """
        if not names or set(names) - set(PARTS):
            raise ValueError(f"parts {list(names)}: one or more of {list(PARTS)} are needed")
        indices = np.flatnonzero(np.isin(self.parts, names)).astype(np.int64)
        if not len(indices):
            raise ValueError(f"no image is in {' or '.join(names)}; this dataset has {self.counts()}")
        return indices

    def counts(self) -> dict[str, int]:
        """Number of images per part; empty parts are left out."""
        return {name: n for name in PARTS if (n := int((self.parts == name).sum()))}


def split_parts(
    labels: np.ndarray,
    *,
    test: float,
    predictor: float,
    search: float,
    val: float,
    seed: int,
    own_test: np.ndarray | None = None,
    classes: tuple[str, ...] | None = None,
) -> np.ndarray:
    """Assign each image to one part.

    Args:
        labels: class of each image, (n,).
        test: fraction of all images; ignored if `own_test` is given.
        predictor, search, val: fractions of the images that are not for testing; 0: no such part.
        seed: the same seed gives the same split.
        own_test: the dataset's own test part, (n,) bool.
        classes: class names, for messages.

    Returns:
        (n,) names from `PARTS`.

    Raises:
        ValueError: if the fractions leave no training images, or a class has too few images for every part.
    """
    fractions = {"predictor": predictor, "search": search, "val": val}
    if sum(fractions.values()) >= 1 or (own_test is None and test >= 1):
        raise ValueError(f"test {test} and {fractions}: nothing is left to train on; lower them in params.yaml split")
    labels = np.asarray(labels)
    parts = np.full(len(labels), "train", dtype=object)
    rest = np.arange(len(labels))
    if own_test is not None:
        parts[own_test] = "test"
        rest = rest[~own_test]
    sizes = {"test": round(test * len(labels))} if own_test is None and test else {}
    remaining = len(rest) - sum(sizes.values())
    sizes |= {name: max(1, round(fraction * remaining)) for name, fraction in fractions.items() if fraction}

    present, counts = np.unique(labels[rest], return_counts=True)
    low = counts.argmin()
    too_few = ValueError(
        f"class {_name(present[low], classes)} has {counts[low]} images to divide into train ({len(rest) - sum(sizes.values())} of "
        f"{len(rest)} images), {', '.join(f'{name} ({size})' for name, size in sizes.items())}: too few for an image of each of the "
        f"{len(present)} classes in every part; add images of it, leave it out, or raise the fractions in params.yaml split"
    )
    for name, size in sizes.items():
        try:
            rest, part = train_test_split(rest, test_size=size, random_state=seed, stratify=labels[rest])
        except ValueError:  # scikit-learn found a class or a part too small
            raise too_few from None
        parts[part] = name
    if any(len(np.setdiff1d(labels, labels[parts == name])) for name in {"train", *sizes}):
        raise too_few
    return parts.astype(str)


def hold_out(items: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A seeded, stratified division of images into those to fit on and the held-out fraction.

    Args:
        items: images to divide, (n,).
        labels: class of every image of the data set, not of `items` alone.
    """
    fit, held_out = train_test_split(items, test_size=fraction, random_state=seed, stratify=labels[items])
    return fit, held_out


def _name(label: int, classes: tuple[str, ...] | None) -> str:
    return repr(classes[label]) if classes else str(label)

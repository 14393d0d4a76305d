"""Counter-based randomness: a draw depends only on a seed and a place, e.g. (seed, stage, epoch, step).

A resumed run, or one on another number of processes, draws the same numbers as an uninterrupted one.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def generator(seed: int, *place: str | int) -> np.random.Generator:
    """An independent generator per place, e.g. `generator(seed, "train", epoch, step)`."""
    # the number of parts is included, since [1] and [1, 0] are the same seed to numpy
    return np.random.default_rng([seed, len(place), *(zlib.crc32(p.encode()) if isinstance(p, str) else p for p in place)])


def key(seed: int, *place: str | int) -> int:
    """One number in [0, 2^63) per place, to be combined with the index of an image."""
    return int(generator(seed, *place).integers(2**63))


@contextmanager
def torch_seed(seed: int, *place: str | int) -> Iterator[None]:
    """Weights that are created meanwhile are drawn by the place; torch's global random state stays as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, *place))
        yield

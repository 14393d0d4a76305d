"""Randomness that is counted, not carried: what is drawn depends on a seed and on where it is drawn.

A resumed run, or one on another number of processes, so draws what the undisturbed one would have.
"""

import zlib

import numpy as np


def generator(seed: int, *place: str | int) -> np.random.Generator:
    """A generator of its own for each place, e.g. `generator(seed, "train", epoch, step)`."""
    # with the number of parts: numpy takes [1] and [1, 0] for the same seed
    return np.random.default_rng([seed, len(place), *(zlib.crc32(p.encode()) if isinstance(p, str) else p for p in place)])


def key(seed: int, *place: str | int) -> int:
    """One number in [0, 2^63) for a place, to be combined with an image's number."""
    return int(generator(seed, *place).integers(2**63))

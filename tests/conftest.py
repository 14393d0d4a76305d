"""What several test folders share."""

import numpy as np
import pytest

from nas.space import SearchSpace, StageSpace


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_space() -> SearchSpace:
    """2304 architectures: few enough to list."""
    mb1 = StageSpace("mb1", widths=(8, 16), depths=(1, 2), kernels=(3, 5), expansions=(1,), stride=1, se=False)
    mb2 = StageSpace("mb2", widths=(16, 24, 32), depths=(1, 2, 3), kernels=(3, 5), expansions=(2, 3), stride=2, se=True)
    return SearchSpace("tiny", (16, 20), (8, 16), 2, (mb1, mb2), (32, 48), 2)


@pytest.fixture(scope="session")
def tiny_rows(tiny_space: SearchSpace) -> np.ndarray:
    """Every architecture of tiny_space, (2304, genes)."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*(g.choices for g in tiny_space.genes))], axis=1)


@pytest.fixture(scope="session")
def easy_set():
    """96 pictures of 20 px, 60 of them for training, whose class is the brightest of three colours: learned in seconds."""
    from nas.data.loader import DataSet
    from nas.data.sets import ArrayPictures
    from nas.data.splits import Parts

    labels = np.arange(96, dtype=np.int64) % 3
    pixels = np.random.default_rng(0).integers(150, size=(96, 20, 20, 3), dtype=np.uint8)
    pixels[np.arange(96), :, :, labels] += 60
    parts = Parts(np.repeat(["train", "monitor"], [60, 36]))
    names = ("red", "green", "blue")
    return DataSet(
        "easy", "Easy", ArrayPictures(pixels, labels, names), names, (0.37,) * 3, (0.2,) * 3, 20, parts, search_in_training=False
    )

"""Fixtures of several test folders."""

import numpy as np
import pytest

from nas.spaces.mbconv import SearchSpace, StageSpace


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_space() -> SearchSpace:
    """A search space of 2304 architectures, few enough to list."""
    mb1 = StageSpace("mb1", widths=(8, 16), depths=(1, 2), kernels=(3, 5), expansions=(1,), stride=1, se=False)
    mb2 = StageSpace("mb2", widths=(16, 24, 32), depths=(1, 2, 3), kernels=(3, 5), expansions=(2, 3), stride=2, se=True)
    return SearchSpace("tiny", (16, 20), (8, 16), 2, (mb1, mb2), (32, 48), 2)


@pytest.fixture(scope="session")
def tiny_rows(tiny_space: SearchSpace) -> np.ndarray:
    """Every architecture of tiny_space, (2304, genes)."""
    return np.stack([axis.ravel() for axis in np.meshgrid(*(g.choices for g in tiny_space.genes))], axis=1)


@pytest.fixture(scope="session")
def easy_set():
    """96 images of 20 px, 60 of them for training; the class is the brightest of three colours, learned in seconds."""
    from nas.data.dataset import ImageDataset
    from nas.data.sources import ArrayImages
    from nas.data.splits import Parts

    labels = np.arange(96, dtype=np.int64) % 3
    pixels = np.random.default_rng(0).integers(150, size=(96, 20, 20, 3), dtype=np.uint8)
    pixels[np.arange(96), :, :, labels] += 60
    parts = Parts(np.repeat(["train", "val"], [60, 36]))
    names = ("red", "green", "blue")
    return ImageDataset(
        "easy", "Easy", ArrayImages(pixels, labels, names), names, (0.37,) * 3, (0.2,) * 3, 20, parts, search_in_training=False
    )


@pytest.fixture(scope="session")
def bundled(tiny_space, easy_set, tmp_path_factory):
    """A folder with a small network and all its formats, with non-initial batch-norm statistics. Do not change it; copy it."""
    import torch

    from nas.evaluation.evaluate import calibrate
    from nas.export import bundle, formats
    from nas.models.extract import Network

    arch = tiny_space.largest()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(tiny_space, arch, 3)
        for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    pixels = np.ascontiguousarray(easy_set.images.pixels[:60].transpose(0, 3, 1, 2))
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (easy_set.mean, easy_set.std))
    calibrate(network, [(torch.from_numpy(pixels).float() - mean) / std])
    described = bundle.Description(
        name="easy-a0",
        dataset="Easy",
        classes=easy_set.classes,
        images=bundle.Preparation(side=20, mean=easy_set.mean, std=easy_set.std),
        architecture=bundle.Architecture.of(tiny_space, arch),
    )
    folder = tmp_path_factory.mktemp("export") / "family" / "easy-a0"
    bundle.write(folder, network, described)
    formats.write(bundle.load(folder), pixels, folder)
    return folder

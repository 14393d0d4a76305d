"""Bundles: written, opened, refused."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nas
from nas.data.sets import fit
from nas.export import bundle
from nas.export.bundle import BundleError


@pytest.fixture
def folder(bundled, tmp_path) -> Path:
    """A bundle of one's own."""
    return Path(shutil.copytree(bundled, tmp_path / "easy-a0"))


@pytest.fixture
def images(easy_set) -> torch.Tensor:
    """(36, 3, 20, 20) uint8."""
    return torch.from_numpy(np.ascontiguousarray(easy_set.images.pixels[60:].transpose(0, 3, 1, 2)))


def test_a_loaded_bundle_is_ready(bundled, images, easy_set):
    """In eval mode, without batch norms, with class names; one row of logits an image."""
    model = nas.load(bundled)
    assert not model.training and model.classes == easy_set.classes
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        assert model(images).shape == (36, 3)


def test_normalisation_is_inside(bundled, images, easy_set):
    """uint8 images give what the network with batch norms gives for (x / 255 - mean) / std, to rounding."""
    x = images.double() / 255
    for c in range(3):
        x[:, c] = (x[:, c] - easy_set.mean[c]) / easy_set.std[c]
    with torch.inference_mode():
        wanted = bundle.load(bundled, folded=False).network(x.float())
        found = nas.load(bundled)(images)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_float_and_uint8_pixels_are_the_same(bundled, images):
    """Pixels are 0..255 in both."""
    model = nas.load(bundled)
    with torch.inference_mode():
        assert torch.equal(model(images), model(images.float()))


def test_unfolded_for_fine_tuning(bundled, images):
    """With its batch norms the network trains: every parameter gets a gradient."""
    model = bundle.load(bundled, folded=False).train()
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_architecture_needs_no_search_space(tiny_space, rng):
    """Space and choices come back from the description for any architecture."""
    for _ in range(20):
        arch = tiny_space.random(rng)
        described = bundle.Architecture.of(tiny_space, arch)
        read = bundle.Architecture.model_validate_json(described.model_dump_json())
        assert read.arch == arch and read.space.size == 1
        assert read.space.stages[1].stride == tiny_space.stages[1].stride and read.space.stages[1].se


def test_the_same_network_gives_the_same_bytes(bundled, tmp_path):
    """bundle.json and weights."""
    model = bundle.load(bundled, folded=False)
    bundle.write(tmp_path / "again", model.network, model.description)
    for name in (bundle.DESCRIPTION, bundle.WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (bundled / name).read_bytes()


def test_a_image_from_disk(bundled, tmp_path):
    """A photograph is prepared as evaluation prepares it."""
    pixels = np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    found = nas.load(bundled).open_image(tmp_path / "photo.png")
    assert found.shape == (1, 3, 20, 20) and found.dtype == torch.uint8
    assert np.array_equal(found[0].numpy().transpose(1, 2, 0), fit(pixels, 20))


def test_the_short_path_works_without_its_link(bundled):
    """outputs/export/<name> stands for outputs/export/family/<name>: `dvc pull` brings no links."""
    assert nas.load(bundled.parents[1] / bundled.name).description.name == "easy-a0"


def test_no_bundle_there(bundled, tmp_path):
    """Those that are beside it are named; so is the command that makes them."""
    with pytest.raises(BundleError, match=r"easy-a9 is no bundle.*easy-a0.*dvc repro export"):
        nas.load(bundled.parent / "easy-a9")


def test_a_pt_file_is_refused(tmp_path):
    """A pickle by another name is not opened."""
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(BundleError, match="is a file; a bundle is a folder"):
        nas.load(tmp_path / "model.pt")


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_pickle_named_weights_is_not_executed(folder, tmp_path, hashed):
    """With or without the right hash beside it."""
    data = pickle.dumps(Hostile(tmp_path / "executed"))
    (folder / bundle.WEIGHTS).write_bytes(data)
    if hashed:
        described = json.loads((folder / bundle.DESCRIPTION).read_text())
        (folder / bundle.DESCRIPTION).write_text(json.dumps(described | {"weights_sha256": bundle._sha256(data)}))
    with pytest.raises(BundleError, match="weights"):
        nas.load(folder)
    assert not (tmp_path / "executed").exists()


def test_truncated_weights_are_told(folder):
    """Half a file."""
    path = folder / bundle.WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BundleError, match=r"weights.safetensors holds no weights of this network.*write the bundle again"):
        nas.load(folder)


def test_a_changed_bit_is_told(folder):
    """The tensors' names and shapes are right; only the hash sees it."""
    path = folder / bundle.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="sha256"):
        nas.load(folder)


def test_missing_weights_are_told(folder):
    """The file is named."""
    (folder / bundle.WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"weights\.safetensors cannot be read"):
        nas.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format"),
        ({"classes": ["one"]}, "classes"),
        ({"classes": ["a", "b", "c", "d"]}, "holds no weights of this network"),
        ({"images": {"side": 20, "mean": [0, 0]}}, "images.mean"),
    ],
)
def test_a_damaged_description_is_told(folder, change, message):
    """The file and the entry are named."""
    described = json.loads((folder / bundle.DESCRIPTION).read_text())
    (folder / bundle.DESCRIPTION).write_text(json.dumps(described | change))
    with pytest.raises(BundleError, match=message):
        nas.load(folder)


def test_a_truncated_description_is_told(folder):
    """It is no JSON."""
    (folder / bundle.DESCRIPTION).write_text('{"format": 1, "na')
    with pytest.raises(BundleError, match="does not describe a bundle"):
        nas.load(folder)


def test_import_nas_loads_no_torch():
    """`nas.load` and `nas.published` are there, and looked up only when they are used."""
    code = "import nas, sys; print('torch' in sys.modules, {'load', 'published'} <= set(dir(nas)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_other_names_are_no_attributes():
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'lead'"):
        nas.lead  # noqa: B018

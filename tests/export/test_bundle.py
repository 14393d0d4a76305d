"""Writing and loading bundles, and refusing damaged ones."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import nas
from nas.data.sources import centre_crop
from nas.export import bundle
from nas.export.bundle import BundleError
from nas.export.onnx import ONNX, open_onnx
from nas.export.quantize import INT8


@pytest.fixture
def folder(bundled, tmp_path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(bundled, tmp_path / "easy-a0"))


@pytest.fixture
def images(easy_set) -> torch.Tensor:
    """(36, 3, 20, 20) uint8."""
    return torch.from_numpy(np.ascontiguousarray(easy_set.images.pixels[60:].transpose(0, 3, 1, 2)))


def test_a_loaded_bundle_is_ready(bundled, images, easy_set):
    """The model is in eval mode, without batch norms, with class names, and gives one row of logits per image."""
    model = nas.load(bundled)
    assert not model.training and model.classes == easy_set.classes
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        assert model(images).shape == (36, 3)


def test_normalisation_is_inside(bundled, images, easy_set):
    """uint8 images give the logits of the network with batch norms for (x / 255 - mean) / std, up to rounding."""
    x = images.double() / 255
    for c in range(3):
        x[:, c] = (x[:, c] - easy_set.mean[c]) / easy_set.std[c]
    with torch.inference_mode():
        reference = bundle.load(bundled, folded=False).network(x.float())
        logits = nas.load(bundled)(images)
    assert torch.allclose(logits, reference, atol=1e-4)


def test_float_and_uint8_pixels_are_the_same(bundled, images):
    """Pixels range from 0 to 255 in both types."""
    model = nas.load(bundled)
    with torch.inference_mode():
        assert torch.equal(model(images), model(images.float()))


def test_an_unfolded_network_can_be_fine_tuned(bundled, images):
    """With batch norms, every parameter gets a gradient."""
    model = bundle.load(bundled, folded=False).train()
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def test_architecture_needs_no_search_space(tiny_space, rng):
    """The description restores space and choices of any architecture."""
    for _ in range(20):
        arch = tiny_space.random(rng)
        described = bundle.Architecture.of(tiny_space, arch)
        read = bundle.Architecture.model_validate_json(described.model_dump_json())
        assert read.arch == arch and read.space.size == 1
        assert read.space.stages[1].stride == tiny_space.stages[1].stride and read.space.stages[1].se


def test_the_same_network_gives_the_same_bytes(bundled, tmp_path):
    """bundle.json and the weights are reproducible."""
    model = bundle.load(bundled, folded=False)
    bundle.write(tmp_path / "copy", model.network, model.description)
    for name in (bundle.DESCRIPTION, bundle.WEIGHTS):
        assert (tmp_path / "copy" / name).read_bytes() == (bundled / name).read_bytes()


def test_an_image_file_is_prepared(bundled, tmp_path):
    """`open_image` prepares a photograph as evaluation does."""
    pixels = np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    image = nas.load(bundled).open_image(tmp_path / "photo.png")
    assert image.shape == (1, 3, 20, 20) and image.dtype == torch.uint8
    assert np.array_equal(image[0].numpy().transpose(1, 2, 0), centre_crop(pixels, 20))


def test_the_short_path_works_without_its_link(bundled):
    """outputs/export/<name> loads outputs/export/family/<name>, because `dvc pull` restores no links."""
    assert nas.load(bundled.parents[1] / bundled.name).description.name == "easy-a0"


@pytest.fixture
def version_1(folder) -> Path:
    """A bundle as version 1 wrote it: `pictures` in bundle.json and as the input of the ONNX files; a torch.export input is positional."""
    described = json.loads((folder / bundle.DESCRIPTION).read_text())
    former = {"format": 1} | {"pictures" if key == "images" else key: value for key, value in described.items() if key != "format"}
    (folder / bundle.DESCRIPTION).write_text(json.dumps(former))
    for name in (ONNX, INT8):
        model = onnx.load(folder / name)
        model.graph.input[0].name = "pictures"
        for node in model.graph.node:
            node.input[:] = ["pictures" if value == "images" else value for value in node.input]
        onnx.checker.check_model(model)
        onnx.save(model, folder / name)
    return folder


def test_version_1_bundles_load(version_1, bundled, images):
    """A version 1 bundle gives the logits of the same bundle in version 2, from `nas.load` and from both ONNX files."""
    model, reference = nas.load(version_1), nas.load(bundled)
    assert model.description == reference.description
    with torch.inference_mode():
        assert torch.equal(model(images), reference(images))
    for name in (ONNX, INT8):
        assert np.array_equal(*(open_onnx(path / name, 1)(images.numpy()) for path in (version_1, bundled)))


def test_version_1_bundles_are_rewritten_as_version_2(version_1, bundled, tmp_path):
    """Writing a loaded version 1 bundle gives the bytes of version 2."""
    model = bundle.load(version_1, folded=False)
    bundle.write(tmp_path / "copy", model.network, model.description)
    assert (tmp_path / "copy" / bundle.DESCRIPTION).read_bytes() == (bundled / bundle.DESCRIPTION).read_bytes()


def test_bundle_json_has_the_keys_of_version_2(bundled):
    """The keys of bundle.json are a public format."""
    described = json.loads((bundled / bundle.DESCRIPTION).read_text())
    assert list(described) == ["format", "name", "dataset", "classes", "images", "architecture", "weights_sha256"]
    assert described["format"] == 2 and list(described["images"]) == ["side", "mean", "std"]


def test_a_missing_bundle_is_refused(bundled, tmp_path):
    """The error lists the bundles beside it and the command that writes them."""
    with pytest.raises(BundleError, match=r"easy-a9 is not a bundle.*easy-a0.*dvc repro export"):
        nas.load(bundled.parent / "easy-a9")


def test_a_pt_file_is_refused(tmp_path):
    """A torch checkpoint is not opened."""
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(BundleError, match="is a file; a bundle is a folder"):
        nas.load(tmp_path / "model.pt")


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_pickle_named_weights_is_not_executed(folder, tmp_path, hashed):
    """A pickle in place of the weights is refused, whether or not the hash matches."""
    data = pickle.dumps(Hostile(tmp_path / "executed"))
    (folder / bundle.WEIGHTS).write_bytes(data)
    if hashed:
        described = json.loads((folder / bundle.DESCRIPTION).read_text())
        (folder / bundle.DESCRIPTION).write_text(json.dumps(described | {"weights_sha256": bundle._sha256(data)}))
    with pytest.raises(BundleError, match="weights"):
        nas.load(folder)
    assert not (tmp_path / "executed").exists()


def test_truncated_weights_are_refused(folder):
    """Half a weights file raises."""
    path = folder / bundle.WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BundleError, match=r"weights.safetensors does not hold the weights of this network.*write the bundle again"):
        nas.load(folder)


def test_a_changed_bit_is_refused(folder):
    """Names and shapes of the tensors are right, but the hash differs."""
    path = folder / bundle.WEIGHTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="sha256"):
        nas.load(folder)


def test_missing_weights_are_refused(folder):
    """The error names the missing file."""
    (folder / bundle.WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"weights\.safetensors cannot be read"):
        nas.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "format"),
        ({"classes": ["one"]}, "classes"),
        ({"classes": ["a", "b", "c", "d"]}, "does not hold the weights of this network"),
        ({"images": {"side": 20, "mean": [0, 0]}}, "images.mean"),
    ],
)
def test_a_damaged_description_is_refused(folder, change, message):
    """The error names the file and the entry."""
    described = json.loads((folder / bundle.DESCRIPTION).read_text())
    (folder / bundle.DESCRIPTION).write_text(json.dumps(described | change))
    with pytest.raises(BundleError, match=message):
        nas.load(folder)


def test_a_truncated_description_is_refused(folder):
    """A description that is not JSON raises."""
    (folder / bundle.DESCRIPTION).write_text('{"format": 2, "na')
    with pytest.raises(BundleError, match="does not describe a bundle"):
        nas.load(folder)


def test_import_nas_loads_no_torch():
    """`nas.load` and `nas.published` are attributes that import torch at first use."""
    code = "import nas, sys; print('torch' in sys.modules, {'load', 'published'} <= set(dir(nas)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_unknown_attributes_raise():
    """An unknown name raises AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'lead'"):
        nas.lead  # noqa: B018

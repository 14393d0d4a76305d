"""Import of the authors' checkpoints as bundles, with drawn weights instead of theirs."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import nas
from nas.export import bundle, formats
from nas.export.import_checkpoint import CLASSES, app, find_images, import_networks
from nas.models.published import count_mflops, read_weights
from nas.spaces import published

TENSORS = json.loads((Path(__file__).parents[1] / "models" / "attentive_nas_checkpoint_tensors.json").read_text())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A file of the published layout with random weights."""
    random = torch.Generator().manual_seed(0)
    state = {f"module.{name}": torch.randn(shape, generator=random) / max(1, int(np.prod(shape[1:]))) ** 0.5 for name, shape in TENSORS}
    path = tmp_path_factory.mktemp("authors") / "attentive_nas.pth.tar"
    torch.save({"state_dict": state, "epoch": 360}, path)
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """40 images in two subfolders."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for i in range(40):
        path = folder / f"{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(256, size=(40, 48, 3), dtype=np.uint8)).save(path)
    return folder


def test_images_in_subfolders_are_read(photographs):
    """All 40 images are read and resized to 224 px; a limit below 40 takes a subset."""
    assert find_images(photographs, 2048).shape == (40, 3, 224, 224)
    assert len(find_images(photographs, 35)) == 35


def test_too_few_images_are_refused(photographs, tmp_path):
    """An empty folder raises with the number of images."""
    with pytest.raises(ValueError, match="hold 0 images"):
        find_images(tmp_path, 100)


def test_a_published_network_is_imported(checkpoint, photographs, tmp_path, monkeypatch):
    """A0 opens with `nas.load` and has the published FLOPs, the file's weights and batch-norm statistics of the images."""
    monkeypatch.setattr(formats, "write", lambda classifier, pixels, folder: None)
    monkeypatch.setattr(formats, "formats", tuple)
    classes = tuple(map(str, range(CLASSES)))
    images = find_images(photographs, 32)
    (folder,) = import_networks(checkpoint, images, ["AttentiveNAS-A0"], tmp_path, classes)

    model = nas.load(folder)
    assert count_mflops(bundle.load(folder, folded=False).network) == pytest.approx(203.390, abs=0.001)
    bias = read_weights(checkpoint)["classifier.linear.linear.bias"]
    assert torch.equal(model.network.classifier.bias, bias)

    raw = bundle.load(folder, folded=False)
    normalised = (torch.from_numpy(images).float() - raw.image_mean) / raw.image_std
    with torch.no_grad():
        stem = raw.network.stem(F.interpolate(normalised, size=(192, 192), mode="bicubic"))
    assert torch.allclose(raw.network.stem_bn.running_mean, stem.mean((0, 2, 3)), atol=1e-4)


@pytest.mark.slow
def test_the_command_writes_every_format(checkpoint, photographs, tmp_path):
    """`python -m nas.export.import_checkpoint FILE IMAGES --network NAME` writes a bundle with every format."""
    done = CliRunner().invoke(app, [str(checkpoint), str(photographs), "--network", "AlphaNet-A0", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {f.file for f in formats.formats()} <= {p.name for p in (tmp_path / "AlphaNet-A0").iterdir()}
    assert nas.load(tmp_path / "AlphaNet-A0").classes[0] == "tench"


def test_an_unknown_network_is_refused(checkpoint, photographs, tmp_path):
    """The command lists the published networks in one line."""
    done = CliRunner().invoke(app, [str(checkpoint), str(photographs), "--network", "A0", "--out", str(tmp_path)])
    assert done.exit_code == 1 and "AttentiveNAS-A6" in done.output


def test_a_truncated_file_is_refused(checkpoint, tmp_path):
    """Half a download raises."""
    path = tmp_path / "half.pth.tar"
    path.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    with pytest.raises(ValueError, match="no whole checkpoint file"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"<html>too many downloads</html>", b"\x80\x02}q\x00."])
def test_a_foreign_file_is_refused(tmp_path, content):
    """An empty file, a web page and an empty pickle raise; the error names the file."""
    path = tmp_path / "attentive_nas.pth.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"attentive_nas\.pth\.tar"):
        read_weights(path)


def test_weights_of_another_network_are_refused(tmp_path):
    """A checkpoint of another architecture raises."""
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="not an AttentiveNAS checkpoint"):
        read_weights(tmp_path / "resnet.pth")


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_hostile_checkpoint_is_not_executed(tmp_path, save):
    """Neither a torch file nor a bare pickle runs code when it is read."""
    save({"state_dict": {}, "extra": Hostile(tmp_path / "executed")}, tmp_path / "evil.pth.tar")
    with pytest.raises(ValueError, match="would run code"):
        read_weights(tmp_path / "evil.pth.tar")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [n.name for n in published.networks("attentive_nas")])
def test_published_networks_have_their_flops(name):
    """`nas.published` builds each one; torch's FLOP counter gives the published multiply-accumulates."""
    network = nas.published(name)
    assert not network.training
    assert count_mflops(network.to("meta")) == pytest.approx(published.find(name).mflops, abs=0.001)


def test_another_number_of_classes():
    """The network has the requested number of classes; its FLOPs are checked with 1000."""
    assert nas.published("AttentiveNAS-A0", classes=7).classifier.out_features == 7


def test_a_changed_architecture_is_refused(monkeypatch):
    """Another architecture under a published name raises, because its FLOPs differ."""
    entries = published.networks("attentive_nas")
    monkeypatch.setattr(published, "find", lambda name: replace(entries[0], arch=entries[1].arch))
    with pytest.raises(RuntimeError, match=r"279.*published are 203"):
        nas.published("AttentiveNAS-A0")

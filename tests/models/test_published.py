"""Published networks, reproduced with known weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.models.extract import extract
from nas.models.published import import_weights, parameter_names, read_weights
from nas.models.supernet import Supernet
from nas.spaces import mbconv
from nas.spaces.mbconv import Arch

FIXTURES = Path(__file__).parent
TENSORS = json.loads((FIXTURES / "attentive_nas_checkpoint_tensors.json").read_text())
LOGITS = json.loads((FIXTURES / "attentive_nas_logits.json").read_text())


def known_weights() -> dict[str, torch.Tensor]:
    """The weights of the fixtures: tensor i of the sorted list is drawn with seed i."""
    weights = {}
    for i, (name, shape) in enumerate(TENSORS):
        v = np.random.RandomState(i).standard_normal(int(np.prod(shape))).reshape(shape)
        if len(shape) > 1:
            v = v * np.sqrt(2 / (v.size / shape[0]))
        else:
            v = 1 + 0.2 * v if name.endswith(".weight") else 0.1 * v
        weights[name] = torch.from_numpy(v.astype(np.float32))
    return weights


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    net = Supernet(mbconv.load("nas/spaces/attentive_nas.yaml"), classes=1000)
    import_weights(net, known_weights())
    return net


def to_arch(row: dict) -> Arch:
    return Arch.from_genes([row["resolution"], *row["width"], *row["depth"], *row["kernel"], *row["expansion"]])


@pytest.mark.parametrize("row", LOGITS, ids=lambda row: row["name"])
def test_logits_of_the_published_network(supernet, row):
    """Known weights and images give the logits that the authors' code gives, to 1e-3."""
    images = torch.from_numpy(np.random.RandomState(2021).standard_normal((4, 3, 224, 224)).astype(np.float32))
    with torch.no_grad():
        logits = supernet(images, to_arch(row))
    assert logits[0, :8].tolist() == pytest.approx(row["logits_image0_first8"], abs=1e-3)
    assert logits.mean().item() == pytest.approx(row["logits_mean"], abs=1e-3)
    assert logits.std().item() == pytest.approx(row["logits_std"], abs=1e-3)
    assert logits.argmax(1).tolist() == row["argmax"]


def test_every_weight_of_the_supernet_has_a_published_name(supernet):
    """Every parameter is imported; only shortcuts that are never used are skipped."""
    mapping = parameter_names(supernet)
    assert set(mapping.values()) == {name for name, _ in supernet.named_parameters()}
    skipped = {name for name, _ in TENSORS} - set(mapping)
    assert all(".shortcut." in name for name in skipped)


def test_a_checkpoint_file_is_read_with_its_prefix(tmp_path, supernet):
    """The authors' file has tensors under state_dict, prefixed with module."""
    weights = known_weights()
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "attentive_nas.pth.tar")
    read = read_weights(tmp_path / "attentive_nas.pth.tar")
    other = Supernet(supernet.space, 1000)
    import_weights(other, read)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), supernet.parameters()))


def test_a_tensor_of_another_shape_is_refused(supernet):
    """The message names the tensor and both shapes."""
    weights = known_weights() | {"classifier.linear.linear.bias": torch.zeros(10)}
    with pytest.raises(ValueError, match=r"classifier.linear.linear.bias is \(10,\).*\(1000,\)"):
        import_weights(supernet, weights)


def test_a_file_without_weights_is_refused(tmp_path):
    """Another torch file is no checkpoint."""
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not an AttentiveNAS checkpoint"):
        read_weights(tmp_path / "other.pt")


def test_the_extracted_published_network_agrees(supernet):
    """A0 as a plain network gives the supernet's logits."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    arch = to_arch(LOGITS[0])
    with torch.no_grad():
        assert torch.equal(extract(supernet, arch)(images), supernet(images, arch))

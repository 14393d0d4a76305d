"""Every format of a bundle, run beside PyTorch."""

import numpy as np
import onnx
import pytest

import nas
from nas.export import formats
from nas.export.formats import INT8, ONNX, PT2, open_onnx, open_pt2


@pytest.fixture(scope="module")
def images(easy_set) -> np.ndarray:
    """(36, 3, 20, 20) uint8."""
    return np.ascontiguousarray(easy_set.images.pixels[60:].transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def wanted(bundled, images) -> np.ndarray:
    """PyTorch's logits."""
    return formats.open_classifier(nas.load(bundled))(images)


@pytest.mark.parametrize(("opened", "file", "limit"), [(open_pt2, PT2, 1e-5), (open_onnx, ONNX, 1e-4)])
def test_logits_are_those_of_pytorch(bundled, images, wanted, opened, file, limit):
    """Within the limits that the issue of a network is held to, for batches of 36, 5 and 1."""
    run = opened(bundled / file, 1)
    assert np.abs(run(images) - wanted).max() <= limit
    assert np.abs(run(images[:5]) - wanted[:5]).max() <= limit
    assert np.abs(run(images[:1]) - wanted[:1]).max() <= limit


def test_eight_bits_are_near(bundled, images, wanted):
    """Logits within a tenth of their spread, in a smaller file: weights of dense convolutions are int8."""
    found = open_onnx(bundled / INT8, 1)(images)
    assert np.abs(found - wanted).mean() < 0.1 * wanted.std()
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(bundled / INT8).graph.initializer}
    assert onnx.TensorProto.INT8 in stored.values()


def test_depthwise_convolutions_stay_in_float(bundled):
    """Each dense convolution reads dequantised weights, each depthwise one float weights."""
    graph = onnx.load(bundled / INT8).graph
    stored = {tensor.name for tensor in graph.initializer}
    for node in (n for n in graph.node if n.op_type == "Conv"):
        depthwise = next(a.i for a in node.attribute if a.name == "group") > 1
        assert (node.input[1] in stored) == depthwise


def test_no_batch_norm_is_left(bundled):
    """They are folded."""
    assert not [n for n in onnx.load(bundled / ONNX).graph.node if n.op_type == "BatchNormalization"]


def test_the_same_classifier_gives_the_same_bytes(bundled, easy_set, tmp_path):
    """All three files, and nothing in them tells where they were made."""
    pixels = np.ascontiguousarray(easy_set.images.pixels[:60].transpose(0, 3, 1, 2))
    formats.write(nas.load(bundled), pixels, tmp_path)
    for f in formats.formats():
        data = (tmp_path / f.file).read_bytes()
        assert data == (bundled / f.file).read_bytes()
        assert b"site-packages" not in data and str(tmp_path).encode() not in data


def test_ranges_need_images(bundled):
    """The parameter is named."""
    with pytest.raises(ValueError, match=r"export\.calibration_images"):
        formats.quantise(bundled / ONNX, np.zeros((0, 3, 20, 20), np.uint8))

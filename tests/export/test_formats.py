"""Every format of a bundle gives PyTorch's outputs."""

import numpy as np
import onnx
import pytest

import nas
from nas.export import formats
from nas.export.onnx import ONNX, open_onnx
from nas.export.quantize import INT8, quantize
from nas.export.torch_export import PT2, open_module, open_pt2


@pytest.fixture(scope="module")
def images(easy_set) -> np.ndarray:
    """(36, 3, 20, 20) uint8."""
    return np.ascontiguousarray(easy_set.images.pixels[60:].transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def reference(bundled, images) -> np.ndarray:
    """PyTorch's logits."""
    return open_module(nas.load(bundled))(images)


@pytest.mark.parametrize(("opened", "file", "limit"), [(open_pt2, PT2, 1e-5), (open_onnx, ONNX, 1e-4)])
def test_logits_equal_those_of_pytorch(bundled, images, reference, opened, file, limit):
    """Logits of batches of 36, 5 and 1 images differ from PyTorch's by at most the limit of the format."""
    run = opened(bundled / file, 1)
    assert np.abs(run(images) - reference).max() <= limit
    assert np.abs(run(images[:5]) - reference[:5]).max() <= limit
    assert np.abs(run(images[:1]) - reference[:1]).max() <= limit


def test_8_bit_logits_are_close(bundled, images, reference):
    """The mean difference is below a tenth of the logits' standard deviation, and weights of dense convolutions are int8."""
    logits = open_onnx(bundled / INT8, 1)(images)
    assert np.abs(logits - reference).mean() < 0.1 * reference.std()
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(bundled / INT8).graph.initializer}
    assert onnx.TensorProto.INT8 in stored.values()


def test_depthwise_convolutions_stay_in_float(bundled):
    """Dense convolutions read dequantised weights, depthwise ones float weights."""
    graph = onnx.load(bundled / INT8).graph
    stored = {tensor.name for tensor in graph.initializer}
    for node in (n for n in graph.node if n.op_type == "Conv"):
        depthwise = next(a.i for a in node.attribute if a.name == "group") > 1
        assert (node.input[1] in stored) == depthwise


def test_batch_norms_are_folded(bundled):
    """The ONNX graph has no BatchNormalization node."""
    assert not [n for n in onnx.load(bundled / ONNX).graph.node if n.op_type == "BatchNormalization"]


def test_the_same_classifier_gives_the_same_bytes(bundled, easy_set, tmp_path):
    """All three files are reproducible, and none contains a path of this machine."""
    pixels = np.ascontiguousarray(easy_set.images.pixels[:60].transpose(0, 3, 1, 2))
    formats.write(nas.load(bundled), pixels, tmp_path)
    for f in formats.formats():
        data = (tmp_path / f.file).read_bytes()
        assert data == (bundled / f.file).read_bytes()
        assert b"site-packages" not in data and str(tmp_path).encode() not in data


def test_quantisation_needs_images(bundled):
    """Without calibration images the error names the parameter."""
    with pytest.raises(ValueError, match=r"export\.calibration_images"):
        quantize(bundled / ONNX, np.zeros((0, 3, 20, 20), np.uint8))

"""torch.export programs as ONNX: ONNX Runtime gives torch's outputs."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.export.onnx import INPUT, OPSET, to_onnx
from nas.models.layers import resize


class Wrapped(nn.Module):
    """A function of float images as a classifier: its result averaged over height and width."""

    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, images):
        return self.function(images.to(torch.float32), *self.layers).mean((2, 3), keepdim=True).flatten(1)


def both(module: nn.Module, side: int, batch: int = 3) -> tuple[np.ndarray, np.ndarray, onnx.ModelProto]:
    """Logits of ONNX Runtime and of torch for another batch size than the traced one, and the ONNX model."""
    module.eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(256, size=(batch, 3, side, side), dtype=np.uint8))
    batches = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(module, (images[:2],), dynamic_shapes=batches)
    with torch.no_grad():
        reference = module(images).numpy()
    model = to_onnx(program, side, reference.shape[1])
    logits = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {INPUT: images.numpy()})[0]
    return logits, reference, model


@pytest.mark.parametrize(
    ("function", "layers", "side"),
    [
        (lambda x: resize(x, 16), (), 24),  # smaller
        (lambda x: resize(x, 24), (), 20),  # larger
        (lambda x: F.avg_pool2d(x, 2, 2), (), 8),
        (lambda x: F.avg_pool2d(x, 2, 2, padding=1), (), 7),  # zero padding counts
        (lambda x: x * F.hardsigmoid(x / 100 - 1.5), (), 8),
        (lambda x: F.silu(x / 100 - 1) + F.relu(x - 128), (), 8),
        (lambda x: F.silu(x / 100 - 1, inplace=True), (), 8),
        (lambda x: F.silu(y := x / 100 - 1, inplace=True) * y, (), 8),  # y is overwritten
        (lambda x, conv: conv(x), (nn.Conv2d(3, 4, 3, 2, padding=1, bias=False),), 9),
        (lambda x, conv: conv(x), (nn.Conv2d(3, 6, 5, 1, padding=2, groups=3),), 8),
    ],
)
def test_operators_mean_the_same(function, layers, side):
    """Every operator gives torch's values to 1e-5 of the largest one, for another batch size than the traced one."""
    logits, reference, _ = both(Wrapped(function, *layers), side)
    assert logits.shape == reference.shape
    assert np.abs(logits - reference).max() <= 1e-5 * np.abs(reference).max()


def test_signature_and_operator_set():
    """The input is `images` (batch, 3, side, side) uint8, the output `logits` (batch, classes), with any batch size."""
    _, _, model = both(Wrapped(lambda x: x), 8)
    assert [opset.version for opset in model.opset_import] == [OPSET]
    (entry,), (out,) = model.graph.input, model.graph.output
    assert entry.type.tensor_type.shape.dim[0].dim_param == out.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert (entry.name, out.name) == ("images", "logits")
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_an_unknown_operator_is_refused():
    """The error names the operator and lists the supported ones."""
    with pytest.raises(ValueError, match=r"operator tanh .*silu"):
        both(Wrapped(torch.tanh), 8)


def test_an_option_without_translation_is_refused():
    """x + 2 y is an addition with a factor; dropping the factor would change the function."""
    with pytest.raises(ValueError, match=r"operator add .*'alpha': 2"):
        both(Wrapped(lambda x: torch.add(x, x, alpha=2)), 8)


def test_another_mean_is_refused():
    """Only the mean over height and width with keepdim=True is translated."""
    with pytest.raises(ValueError, match="only the mean over height and width"):
        both(Wrapped(lambda x: x - x.mean((1,), keepdim=True)), 8)

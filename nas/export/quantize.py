"""8-bit ONNX by post-training static quantisation (Jacob et al., arXiv:1712.05877; ONNX Runtime's, as QuantizeLinear nodes).

Weights and activations of dense convolutions and of the classifier have 8 bits, with ranges from training images.
Depthwise convolutions stay in float: they are few multiplications, and one range for all their channels costs up to
5 points of top-1 on the embedded letters, against 0.4 without them (Sheng et al., arXiv:1803.08607, report the same
for MobileNet).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from nas.export.onnx import INPUT

INT8 = "model.int8.onnx"  # file name in a bundle
CALIBRATION_BATCH = 32  # images per batch while ranges are collected


def quantize(path: Path, calibration: np.ndarray) -> onnx.ModelProto:
    """The 8-bit version of an ONNX file.

    Args:
        calibration: training images (n, 3, side, side) uint8.

    Raises:
        ValueError: if there are no images.
    """
    if not len(calibration):
        raise ValueError("8-bit quantisation needs training images for its ranges: export.calibration_images must be at least 1")
    depthwise = [n.name for n in onnx.load(path).graph.node if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    with TemporaryDirectory() as folder, _without_advice():
        output = Path(folder) / INT8
        quantize_static(
            path,
            output,
            _Calibration(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            nodes_to_exclude=depthwise,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(output)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence ONNX Runtime's advice to fold batch norms and infer shapes first: both are already done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Calibration(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self._batches = (images[i : i + CALIBRATION_BATCH] for i in range(0, len(images), CALIBRATION_BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}

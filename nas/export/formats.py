"""The formats that a classifier is written to, and how each is run.

All take images (batch, 3, side, side) uint8 to logits (batch, classes) float32, for any batch. In the 8-bit network
weights and activations of dense convolutions and of the classifier have 8 bits, with ranges from training images
(post-training static quantisation, Jacob et al., arXiv:1712.05877; ONNX Runtime's, as QuantizeLinear nodes). Depthwise
convolutions stay in float: they are few multiplications, and a range that all their channels share costs up to 5 points
of top-1 on the embedded letters, against 0.4 without them (Sheng et al., arXiv:1803.08607, found the same on MobileNet).
"""

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch.export import Dim, ExportedProgram

from nas.export.bundle import Classifier
from nas.export.graph import INPUT, to_onnx

PT2, ONNX, INT8 = "model.pt2", "model.onnx", "model.int8.onnx"
CALIBRATION_BATCH = 32  # images at once while ranges are collected

Run = Callable[[np.ndarray], np.ndarray]  # images (batch, 3, side, side) uint8 -> logits (batch, classes) float32


@dataclass(frozen=True)
class Format:
    """One file of a bundle."""

    file: str
    title: str
    run: Callable[[Path, int], Run]  # opens the file, with so many threads
    limit: float | None  # on the logits' difference from the PyTorch network; None: measured only


def formats() -> tuple[Format, ...]:
    """In the order of writing."""
    return (
        Format(PT2, "torch.export", open_pt2, 1e-5),
        Format(ONNX, "ONNX", open_onnx, 1e-4),
        Format(INT8, "ONNX, 8 bits", open_onnx, None),
    )


def write(classifier: Classifier, calibration: np.ndarray, folder: Path) -> None:
    """Write every format into the folder; the same classifier gives the same bytes.

    Args:
        classifier: in eval mode on the CPU, folded.
        calibration: training images (n, 3, side, side) uint8, for the ranges of the 8-bit network.
    """
    program = trace(classifier)
    torch.export.save(program, buffer := io.BytesIO())
    _put(folder / PT2, buffer.getvalue())
    side = classifier.description.images.side
    _put(folder / ONNX, to_onnx(program, side, len(classifier.classes)).SerializeToString(deterministic=True))
    _put(folder / INT8, quantise(folder / ONNX, calibration).SerializeToString(deterministic=True))


def trace(classifier: Classifier) -> ExportedProgram:
    """The classifier as a program with a free batch size, without the names of this machine's files in it."""
    side = classifier.description.images.side
    example = torch.zeros((2, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(classifier, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)
    return program


def quantise(path: Path, calibration: np.ndarray) -> onnx.ModelProto:
    """The 8-bit version of an ONNX file.

    Args:
        calibration: training images (n, 3, side, side) uint8.

    Raises:
        ValueError: without images.
    """
    if not len(calibration):
        raise ValueError("the ranges of an 8-bit network need training images: export.calibration_images must be at least 1")
    depthwise = [n.name for n in onnx.load(path).graph.node if any(a.name == "group" and a.i > 1 for a in n.attribute)]
    with TemporaryDirectory() as folder, _quiet():
        quantize_static(
            path,
            written := Path(folder) / INT8,
            _Images(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm"],
            nodes_to_exclude=depthwise,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(written)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to fold batch norms and infer shapes first: both are done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self._batches = (images[i : i + CALIBRATION_BATCH] for i in range(0, len(images), CALIBRATION_BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def open_classifier(classifier: torch.nn.Module) -> Run:
    """A PyTorch module in eval mode on the CPU."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return classifier(torch.from_numpy(np.ascontiguousarray(images))).numpy()

    return run


def open_pt2(path: Path, threads: int) -> Run:
    """A program of torch.export; torch's own thread count holds. PyTorch evaluates parts of the file: only for those made here."""
    return open_classifier(torch.export.load(path).module())


def open_onnx(path: Path, threads: int) -> Run:
    """An ONNX file in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})[0]


def _put(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(data)
    os.replace(fresh, path)

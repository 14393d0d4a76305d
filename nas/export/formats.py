"""The formats of a bundle, and how their outputs compare with PyTorch's.

Every format maps images (batch, 3, side, side) uint8 to logits (batch, classes) float32, for any batch size.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nas.export.bundle import Classifier
from nas.export.onnx import ONNX, open_onnx, to_onnx
from nas.export.quantize import INT8, quantize
from nas.export.torch_export import PT2, open_pt2, to_bytes, trace

Run = Callable[[np.ndarray], np.ndarray]  # images (batch, 3, side, side) uint8 -> logits (batch, classes) float32


class ParityError(ValueError):
    """The outputs of an exported network differ from those of the PyTorch network."""


@dataclass(frozen=True)
class Format:
    """One file of a bundle."""

    file: str
    title: str
    run: Callable[[Path, int], Run]  # opens the file with a number of threads
    limit: float | None  # maximum difference of a logit from PyTorch's; None: reported only


@dataclass(frozen=True)
class Parity:
    """One format of one network compared with PyTorch on the same images."""

    model: str
    format: str
    max_abs_diff: float  # largest difference of a logit
    agreement: float  # percent of images with the same top-1 prediction
    top1: float  # percent
    top1_drop: float  # percentage points below PyTorch's
    limit: float | None  # on max_abs_diff; None: reported only

    def check(self) -> None:
        """
        Raises:
            ParityError: if the logits differ by more than the limit, or are NaN.
        """
        if self.limit is not None and not self.max_abs_diff <= self.limit:  # true for NaN as well
            raise ParityError(
                f"{self.model}: {self.format} differs from PyTorch by {self.max_abs_diff:.3g} in a logit, the limit is {self.limit:g}; "
                f"{self.agreement:.2f} % of the predictions agree. The export is at fault, not the weights"
            )

    def row(self) -> dict:
        """For a table."""
        return asdict(self)


def formats() -> tuple[Format, ...]:
    """All formats, in the order of writing."""
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
    program, side = trace(classifier), classifier.description.images.side
    _replace(folder / PT2, to_bytes(program))
    _replace(folder / ONNX, to_onnx(program, side, len(classifier.classes)).SerializeToString(deterministic=True))
    _replace(folder / INT8, quantize(folder / ONNX, calibration).SerializeToString(deterministic=True))


def logits(run: Run, images: np.ndarray, batch: int) -> np.ndarray:
    """(n, 3, side, side) uint8 -> (n, classes), computed in batches."""
    return np.concatenate([run(images[i : i + batch]) for i in range(0, len(images), batch)])


def compare(model: str, title: str, exported: np.ndarray, reference: np.ndarray, labels: np.ndarray, limit: float | None) -> Parity:
    """Parity of an exported network with PyTorch.

    Args:
        title: of the format.
        exported: logits of the format, (n, classes).
        reference: logits of PyTorch, (n, classes).
        labels: true classes, (n,).

    Raises:
        ValueError: if the shapes do not match.
    """
    if exported.shape != reference.shape or len(labels) != len(reference) or not len(reference):
        raise ValueError(
            f"{model}: logits {exported.shape} of {title}, {reference.shape} of PyTorch, labels {labels.shape}: shapes do not match"
        )
    predictions, expected = exported.argmax(1), reference.argmax(1)
    top1, top1_reference = (100 * float(np.mean(classes == labels)) for classes in (predictions, expected))
    return Parity(
        model=model,
        format=title,
        max_abs_diff=float(np.abs(exported - reference).max()),
        agreement=100 * float(np.mean(predictions == expected)),
        top1=top1,
        top1_drop=top1_reference - top1,
        limit=limit,
    )


def _replace(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(data)
    os.replace(temporary, path)

"""Whether an exported network is the one it was made from: its logits and answers on real images beside PyTorch's."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from nas.export.formats import Run


class ParityError(ValueError):
    """An exported network is another function than the PyTorch network."""


@dataclass(frozen=True)
class Parity:
    """One format of one network, on the same images as PyTorch."""

    model: str
    format: str
    max_abs_diff: float  # largest difference of a logit
    agreement: float  # percent of images with the same answer
    top1: float  # percent
    top1_drop: float  # percentage points below PyTorch's
    limit: float | None  # on max_abs_diff; None: measured only

    def check(self) -> None:
        """
        Raises:
            ParityError: if the logits differ by more than the limit, or are no numbers.
        """
        if self.limit is not None and not self.max_abs_diff <= self.limit:  # also where it is NaN
            raise ParityError(
                f"{self.model} as {self.format} differs from the PyTorch network: a logit by {self.max_abs_diff:.3g}, allowed is "
                f"{self.limit:g}; {self.agreement:.2f} % of the answers agree. Nothing is wrong with the weights; the export is"
            )

    def row(self) -> dict:
        """For a table."""
        return asdict(self)


def logits(run: Run, images: np.ndarray, batch: int) -> np.ndarray:
    """(n, 3, side, side) uint8 -> (n, classes), in batches."""

    def parts() -> Iterator[np.ndarray]:
        for i in range(0, len(images), batch):
            yield run(images[i : i + batch])

    return np.concatenate(list(parts()))


def compare(model: str, title: str, found: np.ndarray, wanted: np.ndarray, labels: np.ndarray, limit: float | None) -> Parity:
    """Logits of an exported network beside those of PyTorch.

    Args:
        found: (n, classes), of the format.
        wanted: (n, classes), of PyTorch.
        labels: (n,), right answers.

    Raises:
        ValueError: for other shapes.
    """
    if found.shape != wanted.shape or len(labels) != len(wanted) or not len(wanted):
        raise ValueError(f"{model}: logits {found.shape} of {title}, {wanted.shape} of PyTorch, labels {labels.shape}: not comparable")
    answers, right = found.argmax(1), wanted.argmax(1)
    top1, reference = (100 * float(np.mean(a == labels)) for a in (answers, right))
    return Parity(
        model=model,
        format=title,
        max_abs_diff=float(np.abs(found - wanted).max()),
        agreement=100 * float(np.mean(answers == right)),
        top1=top1,
        top1_drop=reference - top1,
        limit=limit,
    )

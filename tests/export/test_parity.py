"""Comparison of logits."""

import numpy as np
import pytest

from nas.export.formats import ParityError, compare, logits

REFERENCE = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5], [0.0, 1.0]])
LABELS = np.array([0, 1, 0, 0])


def test_metrics_computed_by_hand():
    """One of four predictions flips, from right to wrong: agreement 75, top-1 75 before and 50 after, largest difference 0.75."""
    exported = REFERENCE + np.array([[0.0, 0.25], [0.5, 0.0], [0.0, 0.75], [0.0, 0.0]])
    parity = compare("a0", "ONNX", exported, REFERENCE, LABELS, 1.0)
    assert (parity.max_abs_diff, parity.agreement, parity.top1, parity.top1_drop) == (0.75, 75, 50, 25)
    parity.check()


@pytest.mark.parametrize("error", [2e-4, np.nan])
def test_a_difference_above_the_limit_raises(error):
    """A large difference and NaN raise; the message names network, format, difference and limit."""
    with pytest.raises(ParityError, match=r"a0: ONNX .* by (0.0002|nan) in a logit, the limit is 0.0001"):
        compare("a0", "ONNX", REFERENCE + error, REFERENCE, LABELS, 1e-4).check()


def test_without_a_limit_nothing_raises():
    """8-bit networks differ by design, so their difference is only reported."""
    compare("a0", "int8", REFERENCE + 5, REFERENCE, LABELS, None).check()


def test_other_shapes_are_refused():
    """A network with another number of classes cannot be compared."""
    with pytest.raises(ValueError, match="shapes do not match"):
        compare("a0", "ONNX", REFERENCE[:, :1], REFERENCE, LABELS, 1e-4)


def test_batches_are_concatenated_in_order():
    """5 images in batches of 2 give 5 rows in order."""
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return batch.reshape(len(batch), 1).astype(np.float32)

    assert logits(run, images, 2)[:, 0].tolist() == [0, 1, 2, 3, 4] and sizes == [2, 2, 1]

"""Comparing logits."""

import numpy as np
import pytest

from nas.export.parity import ParityError, compare, logits

WANTED = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.5], [0.0, 1.0]])
LABELS = np.array([0, 1, 0, 0])


def test_figures_by_hand():
    """One of four answers flips, from right to wrong: agreement 75, top-1 75 before and 50 after, largest difference 0.75."""
    found = WANTED + np.array([[0.0, 0.25], [0.5, 0.0], [0.0, 0.75], [0.0, 0.0]])
    parity = compare("a0", "ONNX", found, WANTED, LABELS, 1.0)
    assert (parity.max_abs_diff, parity.agreement, parity.top1, parity.top1_drop) == (0.75, 75, 50, 25)
    parity.check()


@pytest.mark.parametrize("wrong", [2e-4, np.nan])
def test_a_difference_above_the_limit_stops(wrong):
    """Numbers too far off and no numbers at all; network, format, difference and limit are named."""
    with pytest.raises(ParityError, match=r"a0 as ONNX .* by (0.0002|nan), allowed is 0.0001"):
        compare("a0", "ONNX", WANTED + wrong, WANTED, LABELS, 1e-4).check()


def test_without_a_limit_it_is_measured_only():
    """8-bit networks differ by nature."""
    compare("a0", "int8", WANTED + 5, WANTED, LABELS, None).check()


def test_other_shapes_are_refused():
    """A network with other classes is not comparable."""
    with pytest.raises(ValueError, match="not comparable"):
        compare("a0", "ONNX", WANTED[:, :1], WANTED, LABELS, 1e-4)


def test_batches_are_put_together_in_order():
    """5 images in batches of 2."""
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    sizes = []

    def run(batch):
        sizes.append(len(batch))
        return batch.reshape(len(batch), 1).astype(np.float32)

    assert logits(run, images, 2)[:, 0].tolist() == [0, 1, 2, 3, 4] and sizes == [2, 2, 1]

"""The model card."""

import numpy as np
import pytest

import nas
from nas.export.card import LICENCES, Latency, card
from nas.export.parity import compare


@pytest.fixture
def text(bundled) -> str:
    """Of the small bundle, with one format and one latency."""
    logits = np.eye(3)
    return card(
        nas.load(bundled).description,
        {"mflops": 0.25, "parameters": 12345, "top1": 87.5},
        [compare("easy-a0", "ONNX", logits + 1e-6, logits, np.arange(3), 1e-4)],
        [Latency("ONNX Runtime", 1.25, 1, 2, "some processor")],
        {"train": 60, "val": 36},
        "36 images",
        LICENCES["digits"],
        {"model.onnx": 2048},
    )


def test_every_figure_stands_on_the_card(text):
    """Accuracy, parity, cost, file sizes, latency with its device, data with its licence."""
    assert "| PyTorch | 87.50 |" in text and "| ONNX | 100.00 | 0.00 | 100.00 | 1e-06 |" in text
    assert "0.250 MFLOPs" in text and "12,345 parameters" in text and "| model.onnx | 2 |" in text
    assert "| ONNX Runtime | 1.250 | 1 | 2 | some processor |" in text
    assert "train 60, val 36" in text and "CC BY 4.0" in text


def test_images_are_described(text):
    """Their size and what is inside the network."""
    assert "(batch, 3, 20, 20) uint8" in text and "resize to 20 px are inside" in text


def test_the_code_on_the_card_is_python(text):
    """Both examples compile."""
    for block in text.split("```python\n")[1:]:
        compile(block.partition("```")[0], "card", "exec")

"""The model card of a bundle."""

import numpy as np
import pytest

import nas
from nas.export.card import LICENCES, Facts, Latency, card
from nas.export.formats import compare


@pytest.fixture
def text(bundled) -> str:
    """The card of the small bundle, with one format and one latency."""
    logits = np.eye(3)
    facts = Facts(
        mflops=0.25,
        parameters=12345,
        top1=87.5,
        parities=[compare("easy-a0", "ONNX", logits + 1e-6, logits, np.arange(3), 1e-4)],
        latencies=[Latency("ONNX Runtime", 1.25, 1, 2, "some processor")],
        images={"train": 60, "val": 36},
        evaluated_on="36 images",
        licence=LICENCES["digits"],
        sizes={"model.onnx": 2048},
    )
    return card(nas.load(bundled).description, facts)


def test_the_card_states_every_fact(text):
    """The card has accuracy, parity, cost, file sizes, latency with its device, and data with its licence."""
    assert "Evaluated on 36 images." in text
    assert "| PyTorch | 87.50 |" in text and "| ONNX | 100.00 | 0.00 | 100.00 | 1e-06 |" in text
    assert "0.250 MFLOPs" in text and "12,345 parameters" in text and "| model.onnx | 2 |" in text
    assert "| ONNX Runtime | 1.250 | 1 | 2 | some processor |" in text
    assert "train 60, val 36" in text and "CC BY 4.0" in text


def test_the_card_describes_the_input(text):
    """The card states the input's name, shape and type, and which preparation the model does itself."""
    assert "input is `images`" in text and "(batch, 3, 20, 20) uint8" in text and "resize to 20 px are part of the model" in text


def test_every_section_is_there_once(text):
    """The card has one heading per section, each after a blank line."""
    sections = ["How to run it", "Accuracy", "Cost", "Data", "Limits", "Files"]
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == sections
    assert text.count("\n\n## ") == len(sections)


def test_missing_latencies_are_stated(bundled):
    """Without measured latencies the card says so."""
    facts = Facts(0.25, 12345, 87.5, [], [], {"train": 60}, "36 images", "MIT", {})
    assert "Latency was not measured." in card(nas.load(bundled).description, facts)


def test_the_code_on_the_card_is_python(text):
    """Both code examples compile."""
    for block in text.split("```python\n")[1:]:
        compile(block.partition("```")[0], "card", "exec")

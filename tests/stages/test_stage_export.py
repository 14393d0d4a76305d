"""Stage export on a small family."""

import shutil

import numpy as np
import onnx
import pandas as pd
import pytest

import nas
from nas.export import bundle, formats
from nas.export.formats import ParityError
from nas.runtime.checkpoint import CheckpointError, save_weights
from nas.spaces import encoding
from nas.stages import export


@pytest.fixture
def exporter(bundled, tiny_space, easy_set, tmp_path, monkeypatch) -> export.Exporter:
    """With one model in outputs/search, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    network = bundle.load(bundled, folded=False).network
    save_weights(export.SEARCHED / "family" / "easy-a0.safetensors", network)
    items = easy_set.indices("val")
    images, labels = export.pixels(easy_set, items), easy_set.labels[items]
    return export.Exporter(easy_set, tiny_space, export.pixels(easy_set, easy_set.indices("train")), images, labels, 16, 1, None)


@pytest.fixture
def row(tiny_space) -> dict:
    """The model's entry in family.json."""
    return {"name": "easy-a0", "arch": encoding.to_json(tiny_space.largest()), "mflops": 0.5, "parameters": 1000}


@pytest.fixture
def ready_made(bundled, monkeypatch) -> None:
    """The formats are copied, not made: seconds."""

    def copy(classifier, calibration, folder):
        for f in formats.formats():
            shutil.copy(bundled / f.file, folder / f.file)

    monkeypatch.setattr(formats, "write", copy)


def test_a_model_becomes_a_bundle(exporter, row, ready_made):
    """All files are there, the network is the family's, and every format is compared."""
    found = exporter.model(row)
    export.link(["easy-a0"])
    folder = export.OUT / "easy-a0"
    names = {"bundle.json", "weights.safetensors", "model.pt2", "model.onnx", "model.int8.onnx", "card.md"}
    assert {p.name for p in folder.iterdir()} == names
    assert [p.format for p in found] == [f.title for f in formats.formats()]
    assert nas.load(folder).classes == exporter.data.classes
    assert "36 images of the validation split" in (folder / "card.md").read_text()


def test_outputs_that_differ_from_pytorch_stop_the_stage(exporter, row, ready_made, monkeypatch):
    """An ONNX file with one changed weight fails parity; network and format are named."""
    copy = formats.write

    def spoilt(classifier, calibration, folder):
        copy(classifier, calibration, folder)
        model = onnx.load(folder / formats.ONNX)
        bias = next(t for t in model.graph.initializer if t.name.endswith("classifier_bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        onnx.save(model, folder / formats.ONNX)

    monkeypatch.setattr(formats, "write", spoilt)
    with pytest.raises(ParityError, match=r"easy-a0: ONNX differs .* by 0\.01"):
        exporter.model(row)


def test_missing_weights_are_an_error(exporter, row):
    """A model that the search did not write raises."""
    with pytest.raises(CheckpointError, match="easy-a9"):
        exporter.model(row | {"name": "easy-a9"})


def test_links_of_an_earlier_family_are_removed(exporter):
    """A smaller family leaves neither dead links nor the folders that a copy of the project turned them into."""
    for name in ("a0", "a1"):
        (export.FAMILY / name).mkdir(parents=True)
    export.link(["a0", "a1"])
    (export.OUT / "a1").unlink()
    (export.OUT / "a1").mkdir()  # as zip or copytree make of it
    (export.OUT / "a1" / "bundle.json").touch()
    export.link(["a0"])
    assert {p.name for p in export.OUT.iterdir()} == {"family", "a0"}


def test_every_runtime_has_a_latency(exporter):
    """One for each runtime, in milliseconds, above zero."""
    found = export.latencies({"one": lambda x: x, "two": lambda x: x}, np.zeros((1, 3, 8, 8), np.uint8), 2)
    assert [(e.runtime, e.batch, e.threads) for e in found] == [("one", 1, 2), ("two", 1, 2)]
    assert all(e.latency_ms >= 0 and e.device for e in found)


def test_metrics_are_those_of_the_worst_model():
    """By hand, over two models and three formats."""
    titles = [f.title for f in formats.formats()]
    rows = [("a0", titles[0], 1e-6, 0.0), ("a0", titles[1], 3e-5, 0.0), ("a0", titles[2], 2.0, 1.25)]
    rows += [("a1", titles[0], 2e-6, 0.0), ("a1", titles[1], 1e-5, 0.0), ("a1", titles[2], 1.0, -0.5)]
    table = pd.DataFrame(rows, columns=["model", "format", "max_abs_diff", "top1_drop"])
    assert export.worst_model(table) == {"models": 2, "onnx_max_abs_diff": 3e-5, "pt2_max_abs_diff": 2e-6, "int8_top1_drop": 1.25}

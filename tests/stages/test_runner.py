"""Opening and finishing a stage, apart from DVC and MLflow: addresses, metrics, errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from nas.runtime.io import DocumentError
from nas.runtime.params import ParamsError
from nas.stages import runner
from nas.stages.runner import MAIN, Pipeline


class Recorded:
    """Takes the place of an MLflow run."""

    def __init__(self) -> None:
        self.metrics = {}

    def summary(self, metrics, prefix):
        self.metrics[prefix] = metrics


def finish(out: Path, metrics: dict, **options) -> dict:
    """metrics.json of a finished stage; MLflow gets the same."""
    run = Recorded()
    out.mkdir(parents=True, exist_ok=True)
    runner.Stage("a title", "search", out, run, None).finish(metrics, **options)
    written = json.loads((out / "metrics.json").read_text())
    assert run.metrics == {"search": written}
    return written


def test_metrics_are_rounded_to_six_places(tmp_path, capsys):
    """Whole numbers stay whole; the line has the title."""
    assert finish(tmp_path, {"top1": np.float64(12.34567891), "models": 5}) == {"top1": 12.345679, "models": 5}
    assert capsys.readouterr().out == "a title: top1 12.3457, models 5\n"


def test_small_differences_are_not_rounded_if_asked_so(tmp_path):
    """1.4e-7 stays 1.4e-7."""
    metrics = {"models": 1, "onnx_max_abs_diff": 1.4e-7}
    assert finish(tmp_path, metrics, decimals=None) == metrics


def test_addresses_are_those_of_dvc():
    """Of the main pipeline, of another one, of an entry of a matrix."""
    study = Pipeline(Path("studies/strategies"))
    assert MAIN.address("train") == "train" and MAIN.out("train") == Path("outputs/train") == runner.out("train")
    assert study.address("train", "uniform-0") == "studies/strategies/dvc.yaml:train@uniform-0"
    assert study.out("train", "uniform-0") == Path("studies/strategies/outputs/train/uniform-0")
    assert str(study.damaged(Path("x.json"), KeyError("rows"), "report")).endswith("dvc repro -f studies/strategies/dvc.yaml:report")


def test_a_group_are_runs_with_equal_parameters_but_for_the_varied_ones(tmp_path, monkeypatch):
    """The main pipeline has none."""
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    study = Pipeline(tmp_path, varied=("seeds",))

    def key(text: str) -> str:
        study.parameters.write_text(text)
        return runner._group(study).key

    assert key("seeds: [0]\ntrain: 3") == key("seeds: [0, 1]\ntrain: 3") != key("seeds: [0]\ntrain: 4")
    assert runner._group(MAIN) is None


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [(ParamsError("train.epochs is missing"), 1, "error: train.epochs is missing"), (KeyboardInterrupt(), 130, "the same command goes on")],
)
def test_an_error_ends_the_process_with_one_line(error, status, text, monkeypatch, capsys):
    """And with the exit status of a failed or interrupted command."""
    monkeypatch.delenv("NAS_DEBUG", raising=False)

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        runner.execute(main)
    assert end.value.code == status and text in capsys.readouterr().err


def test_an_error_is_shown_where_it_arose_on_demand(monkeypatch):
    """NAS_DEBUG=1."""
    monkeypatch.setenv("NAS_DEBUG", "1")

    def main() -> None:
        raise ParamsError("train.epochs is missing")

    with pytest.raises(ParamsError):
        runner.execute(main)


@pytest.mark.parametrize("text", ["{}", '{"classes": "7"}', "[7]"])
def test_the_number_of_classes_has_to_be_there(tmp_path, text):
    """The message has the file and the command that writes it."""
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(DocumentError, match=r"metrics\.json is damaged.*dvc repro --force split"):
        runner.count_classes(path)

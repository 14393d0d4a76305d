"""Runs of the pipelines of differentiable search, for their tests."""

from pathlib import Path

import yaml

from nas.runtime import presets
from tests.stages.test_pipeline import dvc, small_copy


def small_run(folder: Path, pipeline: str) -> str:
    """Copy the project into the folder and run the pipeline with the preset smoke; returns the output of dvc."""
    small_copy(folder)
    presets.apply("smoke", folder / f"pipelines/{pipeline}/params.yaml", folder / f"pipelines/{pipeline}/presets")
    return dvc(folder, "repro", f"pipelines/{pipeline}/dvc.yaml").stdout


def again(folder: Path, pipeline: str, stage: str, files: list[str]) -> tuple[list[bytes], list[bytes]]:
    """Outputs of a stage, before and after it runs once more."""
    paths = [folder / f"pipelines/{pipeline}/outputs/{stage}/{name}" for name in files]
    before = [path.read_bytes() for path in paths]
    dvc(folder, "repro", "--force", "--single-item", f"pipelines/{pipeline}/dvc.yaml:{stage}")
    return before, [path.read_bytes() for path in paths]


def hidden_channels(weights: dict, entry: dict) -> list[int]:
    """Of the depthwise convolutions of a network of family.json, by its weights."""
    return [weights[f"{entry['name']}.blocks.{i}.depthwise.weight"].shape[0] for i in range(len(entry["rows"]))]


def change(file: Path, keys: tuple[str, ...], value: object) -> None:
    """Put a value into a file of parameters."""
    found = yaml.safe_load(file.read_text())
    inner = found
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(yaml.safe_dump(found))

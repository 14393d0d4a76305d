"""Pipelines of differentiable search: what decides a stage's results is among its dependencies, by the rule of tests/test_dvc_yaml.py."""

from pathlib import Path

import pytest
import yaml

from tests.test_dvc_yaml import ROOT, Needed, covered, keys, path, paths

NAMES = ("tf_nas", "tf_nas_claims", "hardcore_nas", "hardcore_nas_claims", "methods")
PIPELINES = {name: yaml.safe_load((ROOT / "pipelines" / name / "dvc.yaml").read_text())["stages"] for name in NAMES}
STAGES = [(name, stage) for name, stages in PIPELINES.items() for stage in stages]


@pytest.mark.parametrize(("pipeline", "stage"), STAGES)
def test_dependencies_are_what_the_stage_runs(pipeline, stage):
    """Every module, and no file of code besides."""
    needed = {
        path(module).relative_to(ROOT) if path(module).is_absolute() else path(module) for module in Needed(f"{pipeline}.{stage}").modules
    }
    deps = [dep for dep in PIPELINES[pipeline][stage]["deps"] if dep.startswith("nas/")]
    assert not {file for file in needed if not covered(file, deps)}
    assert not [dep for dep in deps if not any(covered(file, [dep]) for file in needed)]


@pytest.mark.parametrize(("pipeline", "stage"), STAGES)
def test_a_stage_lies_where_its_name_says(pipeline, stage):
    """Its file, its command, its outputs but for summary and page, its metrics in git."""
    entry = PIPELINES[pipeline][stage]
    assert entry["cmd"] == f"python -m nas.stages.{pipeline}.{stage}" and (ROOT / f"nas/stages/{pipeline}/{stage}.py").is_file()
    written = [p for kind in ("outs", "metrics", "plots") for p in paths(entry.get(kind, []))]
    folder = Path(f"pipelines/{pipeline}/outputs")
    assert {Path(p).parent for p in written} <= {folder, folder / stage, Path("docs")}
    assert {f"{folder}/{stage}/metrics.json": {"cache": False}} in entry["metrics"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_stage_file_is_a_stage(pipeline):
    """A file to be run that DVC does not know would never run."""
    files = {p.stem for p in (ROOT / "nas/stages" / pipeline).glob("*.py") if "__main__" in p.read_text()}
    assert files == set(PIPELINES[pipeline])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_no_key_is_passed_over(pipeline):
    """DVC's run cache leaves parameters called `size` and `nfiles` out."""
    folder = ROOT / "pipelines" / pipeline
    for file in [folder / "params.yaml", *(folder / "profiles").glob("*.yaml")]:
        assert not keys(yaml.safe_load(file.read_text())) & {"size", "nfiles"}

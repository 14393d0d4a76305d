"""A small run of `dvc repro studies/hardcore_nas_claims/dvc.yaml`, in a copy of the project: minutes long."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nas.runtime import presets
from tests.stages.test_pipeline import dvc, small_copy
from tests.studies.strategies.test_strategies_pipeline import ran

pytestmark = pytest.mark.slow

FILE, OUTPUTS = Path("studies/hardcore_nas_claims/dvc.yaml"), Path("studies/hardcore_nas_claims/outputs")
TIMES = ["step_ms", "programme_ms", "seconds"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project after its first run, and what dvc printed."""
    folder = tmp_path_factory.mktemp("hardcore_nas_claims") / "project"
    small_copy(folder)
    for name in ("hardcore_nas", "hardcore_nas_claims"):
        place = folder / ("studies" if name.endswith("claims") else "pipelines") / name
        presets.apply("smoke", place / "params.yaml", place / "presets")
    return folder, dvc(folder, "repro", str(FILE)).stdout


def results(folder: Path, stage: str) -> pd.DataFrame:
    return pd.read_csv(folder / OUTPUTS / stage / "results.csv")


def test_the_stages_run_once(finished):
    """After those of HardCoRe-NAS, and nothing a second time; all that is promised is there."""
    folder, output = finished
    assert ran(output) == sorted(["split", "latency", "train", "search", "derive", "tune", "tuning", "starts", "report"])
    assert ran(dvc(folder, "repro", str(FILE)).stdout) == []
    for stage in yaml.safe_load((folder / FILE).read_text())["stages"].values():
        for path in (next(iter(entry)) for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])):
            assert (folder / path).stat().st_size > 0, path


def test_the_own_start_finds_what_the_search_found(finished):
    """With the seed, the start and the targets of HardCoRe-NAS's own search, its networks; from every start within the target."""
    folder, _ = finished
    starts = results(folder, "starts")
    searched = json.loads((folder / "pipelines/hardcore_nas/outputs/search/searched.json").read_text())
    own = starts[(starts["seed"] == 0) & (starts["start"] == 0.25)].set_index("target")
    assert len(starts) == 12
    for entry in searched:
        assert own.loc[entry["name"], "arch"] == "_".join("-".join(map(str, stage)) for stage in entry["arch"])
    assert (starts["max_violation_ms"] <= 1e-9 * starts["target_latency_ms"]).all()


def test_training_as_long_as_stage_tune_is_the_same(finished):
    """One epoch is what the preset smoke of HardCoRe-NAS has: the same top-1 as in its summary."""
    folder, _ = finished
    tuning = results(folder, "tuning").set_index(["network", "training", "epochs"])
    summary = json.loads((folder / "pipelines/hardcore_nas/outputs/summary.json").read_text())
    for name, entry in zip("ab", summary):
        assert tuning.loc[(name, "tuning", 1), "top1"] == pytest.approx(entry["top1"], abs=1e-4)


def test_the_stages_reproduce_their_results(finished):
    """Run by force: the same results, but for times."""
    folder, _ = finished
    before = {stage: results(folder, stage) for stage in ("tuning", "starts")}
    for stage, found in before.items():
        dvc(folder, "repro", "--force", "--single-item", f"{FILE}:{stage}")
        pd.testing.assert_frame_equal(*(frame.drop(columns=TIMES, errors="ignore") for frame in (results(folder, stage), found)))


def test_the_page_has_every_verdict(finished):
    """As many comparisons and checks as the metrics count; all images are where the page looks for them."""
    folder, _ = finished
    page, metrics = (folder / "docs/hardcore_nas.md").read_text(), json.loads((folder / OUTPUTS / "report/metrics.json").read_text())
    rows = pd.read_csv(folder / OUTPUTS / "report/claims.csv")
    assert sum(metrics.values()) == len(rows)
    assert rows.loc[rows["claim"] == "hard constraint", "verdict"].eq("supported").all()
    for name in ("constraint", "starts", "figure_8"):
        assert f"(../{OUTPUTS}/report/{name}.png)" in page

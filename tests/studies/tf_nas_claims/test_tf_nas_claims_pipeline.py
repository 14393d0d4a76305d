"""A small run of `dvc repro studies/tf_nas_claims/dvc.yaml`, in a copy of the project: minutes long."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nas.runtime import presets
from tests.stages.test_pipeline import dvc, small_copy
from tests.studies.strategies.test_strategies_pipeline import ran

pytestmark = pytest.mark.slow

FILE, OUTPUTS = "studies/tf_nas_claims/dvc.yaml", Path("studies/tf_nas_claims/outputs")
STAGES = ["trade_off", "collapse", "devices", "stopping", "report"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project after its first run, and what dvc printed."""
    folder = tmp_path_factory.mktemp("tf_nas_claims") / "project"
    small_copy(folder)
    for name in ("tf_nas", "tf_nas_claims"):
        place = folder / ("studies" if name.endswith("claims") else "pipelines") / name
        presets.apply("smoke", place / "params.yaml", place / "presets")
    return folder, dvc(folder, "repro", FILE).stdout


def results(folder: Path, stage: str) -> pd.DataFrame:
    return pd.read_csv(folder / OUTPUTS / stage / "results.csv")


def test_each_stage_of_the_claims_runs_once(finished):
    """After those stages of TF-NAS that they need, and nothing a second time; all that is promised is there."""
    folder, output = finished
    assert ran(output) == sorted(["split", "latency", "search", "derive", "train", *STAGES])
    assert ran(dvc(folder, "repro", FILE).stdout) == []
    for stage in yaml.safe_load((folder / FILE).read_text())["stages"].values():
        for path in (next(iter(entry)) for kind in ("metrics", "plots") for entry in stage.get(kind, [])):
            assert (folder / path).stat().st_size > 0, path


def test_the_results_are_whole(finished):
    """A row for each setting; scaled networks are not slower than the target; the first of `stopping` agrees with itself."""
    folder, _ = finished
    trade_off, stopping = results(folder, "trade_off"), results(folder, "stopping")
    assert len(trade_off) == 4 and len(results(folder, "collapse")) == 4 and len(results(folder, "devices")) == 4
    scaled = trade_off[trade_off["scaled"]]
    assert ((scaled["table_latency_ms"] <= scaled["target_latency_ms"] + 1e-6) | (scaled["bounds_reached"] == "least")).all()
    assert stopping.loc[0, ["same_layers", "same_depths"]].tolist() == [1, 1] and (stopping["cpu_seconds"] > 0).all()


def test_the_searches_are_reproducible(finished):
    """Run by force: the same results, but for CPU seconds."""
    folder, _ = finished
    before = {stage: results(folder, stage) for stage in ("trade_off", "collapse", "stopping")}
    for stage, found in before.items():
        dvc(folder, "repro", "--force", "--single-item", f"{FILE}:{stage}")
        pd.testing.assert_frame_equal(
            results(folder, stage).drop(columns="cpu_seconds", errors="ignore"), found.drop(columns="cpu_seconds", errors="ignore")
        )


def test_the_page_of_claims_has_every_verdict(finished):
    """As many comparisons and checks as the metrics count; both images are where the page looks for them."""
    folder, _ = finished
    page, metrics = (folder / "docs/tf_nas.md").read_text(), json.loads((folder / OUTPUTS / "report/metrics.json").read_text())
    rows = pd.read_csv(folder / OUTPUTS / "report/claims.csv")
    assert sum(metrics.values()) == len(rows) and rows["claim"].nunique() == 11
    for name in ("trade_off", "collapse"):
        assert f"(../{OUTPUTS}/report/{name}.png)" in page

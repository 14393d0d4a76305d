"""Stage latency from params.yaml to outputs/latency, on this machine, the smallest space, few rounds."""

import json
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nas.cost.latency_mbconv import MBConvLatencyTable
from nas.spaces import mbconv
from nas.stages import latency, runner
from nas.tracking.runs import SilentRun

ROOT = Path(__file__).parents[2]
OUT = runner.out("latency")
KEYS = {"kendall_tau_latency", "kendall_tau_flops", "kendall_tau_repeat", "median_relative_error", "p90_relative_error", "bias"}
KEYS |= {"noise_floor", "p90_noise", "min_latency_ms", "max_latency_ms", "networks", "seconds"}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with parameters and the number of classes; neither DVC nor MLflow."""
    monkeypatch.chdir(tmp_path)
    found = yaml.safe_load((ROOT / "params.yaml").read_text())
    found["latency"] |= {
        "repetitions": 8,
        "fitted": 12,
        "networks": 8,
        "limit_s": 500,
    }  # fewer, and a busy machine leaves only noise to fit
    found["space"] = str(ROOT / "nas/spaces/smoke.yaml")
    Path("params.yaml").write_text(yaml.safe_dump(found))
    runner.write_json(runner.out("split") / "metrics.json", {"classes": 7})

    class Nothing:
        def save(self, state, name): ...

        def load(self, name): ...

    @contextmanager
    def stage(name, parameters):
        OUT.mkdir(parents=True)
        yield runner.Stage("latency", "latency", OUT, SilentRun(), Nothing())

    monkeypatch.setattr(runner, "stage", stage)
    return tmp_path


def test_the_stage_leaves_a_table_and_how_good_it_is(project):
    """All outputs, the agreed metrics, a table that a search can take, and a row for each of 20 networks and 8 rounds."""
    latency.main()
    metrics = json.loads((OUT / "metrics.json").read_text())
    assert metrics.keys() == KEYS and metrics["networks"] == 8 and metrics["noise_floor"] >= 0
    searched = mbconv.load(ROOT / "nas/spaces/smoke.yaml")
    table = MBConvLatencyTable.load(OUT / "table.json", searched, 7)
    assert table.costs.unit == "ms"
    assert table.range_ms == pytest.approx((metrics["min_latency_ms"], metrics["max_latency_ms"]), rel=1e-4)
    setting = table.setting
    assert setting["repetitions"] == 8 and setting["backend"] == "torch" and setting["versions"]["torch"]
    rows = pd.read_csv(OUT / "validation.csv")
    assert len(rows) == 20 * 8 and (rows["raw_latency_ms"] > 0).all()
    assert (OUT / "validation.png").read_bytes().startswith(b"\x89PNG")


def test_too_little_time_stops_it(project):
    """The message names the key."""
    found = yaml.safe_load(Path("params.yaml").read_text())
    found["latency"]["limit_s"] = 0.01
    Path("params.yaml").write_text(yaml.safe_dump(found))
    with pytest.raises(ValueError, match=r"raise params\.yaml: latency\.limit_s"):
        latency.main()

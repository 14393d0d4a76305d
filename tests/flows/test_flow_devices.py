"""Latency tables of other machines, on a small DVC project whose stage `latency` writes its parameters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import devices

CODE = """
import json, pathlib, sys
import yaml
p = yaml.safe_load(pathlib.Path("params.yaml").read_text())["latency"]
if p["threads"] < 1:
    sys.exit("threads: at least 1")
out = pathlib.Path("outputs/latency")
out.mkdir(parents=True, exist_ok=True)
out.joinpath("table.json").write_text(json.dumps({"format": "latency table 1", "device": "toy", "threads": p["threads"]}, indent=2))
out.joinpath("metrics.json").write_text(json.dumps({"kendall_tau_latency": 0.96}))
"""
DVC = f"""
stages:
  latency:
    cmd: {sys.executable} work.py
    deps: [work.py]
    params: [latency]
    outs: [outputs/latency/table.json]
    metrics: [outputs/latency/metrics.json: {{cache: false}}]
"""


def dvc(*args: str) -> str:
    return subprocess.run([sys.executable, "-m", "dvc", *args], check=True, capture_output=True, text=True).stdout


def git(*args: str) -> str:
    return subprocess.run(["git", *args], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path, monkeypatch, plain_environment) -> Path:
    """A project under git and DVC as the current folder; its own latency is already measured."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("work.py").write_text(CODE)
    Path("params.yaml").write_text("latency: {threads: 1}\n")
    Path("dvc.yaml").write_text(DVC)
    Path(".gitignore").write_text("__pycache__/\n/outputs/latency/table.json\n")
    git("init", "-q")
    dvc("init", "-q")
    dvc("config", "core.analytics", "false")
    dvc("repro", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "start")
    return folder


@pytest.mark.parametrize("name", ["none", "Pi4", "pi_4", "-pi", "", "a/b"])
def test_invalid_device_names_are_refused(name):
    """A name that an artifact cannot have raises."""
    with pytest.raises(ValueError, match="invalid device name"):
        devices.check_name(name)


def test_the_table_survives_the_artifact():
    """The artifact returns the table byte for byte, below its summary."""
    table = json.dumps({"device": "Pi ```", "batch": 1, "entries": [1, 2]}, indent=2) + "\n"
    text = devices.to_markdown("pi4", table, {"kendall_tau_latency": 0.961, "networks": 48})
    assert devices.from_markdown(text) == table
    assert "| device | Pi ``` |" in text and "| kendall_tau_latency | 0.961 |" in text


def test_a_table_of_this_machine(server, project):
    """A table with a changed parameter is under DVC and in the artifact; the project's own table stays."""
    from prefect.artifacts import Artifact

    own = Path(devices.TABLE).read_text()

    path = devices.store("pi4", devices.measure("pi4", {"latency.threads": 4}))

    assert path == Path("devices/pi4.json") and json.loads(path.read_text())["threads"] == 4
    assert yaml.safe_load(Path("devices/pi4.json.dvc").read_text())["outs"][0]["path"] == "pi4.json"
    assert json.loads(devices.from_markdown(Artifact.get("latency-pi4").data)) == json.loads(path.read_text())
    assert Path(devices.TABLE).read_text() == own
    assert git("status", "--porcelain").split() == ["??", "devices/"]


def test_a_failed_measurement_raises(server, project):
    """The error has the last output of the stage; nothing is written."""
    with pytest.raises(devices.StageFailed, match="threads: at least 1"):
        devices.measure("pi4", {"latency.threads": 0})
    assert not Path("devices").exists()


def test_another_version_replaces_the_first(project):
    """Both versions are in DVC's cache: the .dvc file of the first one in git restores it."""
    devices.store("pi4", "one\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    devices.store("pi4", "two\n")
    assert Path("devices/pi4.json").read_text() == "two\n"
    git("checkout", "-q", "devices/pi4.json.dvc")
    dvc("checkout", "-q")
    assert Path("devices/pi4.json").read_text() == "one\n"


@pytest.mark.slow
def test_a_worker_measures_and_returns_the_table(project, prefect_processes):
    """With server, deployment and a worker of the device's queue, the command writes the worker's table."""
    with prefect_processes(project) as prefect:
        git("add", "-A")
        git("commit", "-qm", "flows")
        prefect.call("deploy", "--name", "measure")
        prefect.start("worker", "start", "--pool", "local", "--work-queue", "pi4")
        command = [sys.executable, "-m", "flows.devices", "--name", "pi4", "--queue", "pi4", "--set", "latency.threads=3"]
        subprocess.run(command, check=True, env=prefect.environment, timeout=300)
        assert json.loads(Path("devices/pi4.json").read_text())["threads"] == 3 and Path("devices/pi4.json.dvc").is_file()

"""A flow run cancelled through server and worker while a stage trains: the next one resumes it."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

STEPS = 40
STAGE = f"""
import os, pathlib, time
from nas.runtime import processes
from nas.tracking import provenance, session
from nas.runtime.checkpoint import Checkpoint

pathlib.Path("pid").write_text(str(os.getpid()))
with session.stage_run("train", {{}}) as run, Checkpoint(processes.project_root(), "train", provenance.fingerprint("train")) as checkpoint:
    state = checkpoint.load() or {{"done": 0, "number": 1}}
    for step in range(state["done"], {STEPS}):
        time.sleep(0 if pathlib.Path("go").exists() else 0.5)
        state = {{"done": step + 1, "number": (31 * state["number"] + step) % 2**31}}
        run.log({{"number": state["number"]}}, step)
        checkpoint.save(state)
    pathlib.Path("out.txt").write_text(str(state["number"]))
"""
PARAMS = "train: 1\ntracking: {uri: 'sqlite:///mlflow.db', experiment: test, system_metrics: false}\n"
DVC = "stages:\n  train: {cmd: " + sys.executable + " stage.py, deps: [stage.py], params: [train], outs: [out.txt]}\n"


@pytest.fixture
def project(tmp_path, monkeypatch, plain_environment) -> Path:
    """A project with one stage, which takes 20 s, or none once there is a file `go`."""
    folder = tmp_path / "project"
    folder.mkdir()
    files = {
        "stage.py": STAGE,
        "params.yaml": PARAMS,
        "dvc.yaml": DVC,
        ".gitignore": "mlflow.db*\nmlartifacts/\n.checkpoints/\n.mlflow.lock\nout.txt\npid\ngo\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    dvc = [sys.executable, "-m", "dvc", "-q", "init"]
    for command in (["git", "init", "-q"], dvc, ["git", "add", "-A"], ["git", "commit", "-qm", "start"]):
        subprocess.run(command, check=True, capture_output=True)
    return folder


def curve() -> list[int]:
    """Steps of the stage in MLflow."""
    if not Path("mlflow.db").exists():
        return []
    try:
        return [step for (step,) in sqlite3.connect("mlflow.db").execute("SELECT step FROM metrics WHERE key = 'number' ORDER BY step")]
    except sqlite3.OperationalError:  # the tables do not exist yet
        return []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_cancelled_flow_run_is_resumed(project, prefect_processes):
    """The stage ends at once and its MLflow run is KILLED; the next flow run gives the undisturbed result with every step once."""
    number = 1
    for step in range(STEPS):
        number = (31 * number + step) % 2**31
    with prefect_processes(project) as prefect:
        prefect.call("deploy", "--all")
        prefect.start("worker", "start", "--pool", "local", "--limit", "1")
        prefect.call("deployment", "run", "pipeline/full")
        wait_for(lambda: len(curve()) >= 3)
        stage = psutil.Process(int(Path("pid").read_text()))
        (flow_run,) = (r["id"] for r in json.loads(prefect.call("flow-run", "ls", "--output", "json")))
        prefect.call("flow-run", "cancel", flow_run)
        wait_for(lambda: not stage.is_running())
        done = len(curve())
        assert 3 <= done < STEPS and not Path("out.txt").exists()
        assert sqlite3.connect("mlflow.db").execute("SELECT DISTINCT status FROM runs").fetchall() == [("KILLED",)]

        Path("go").touch()
        prefect.call("deployment", "run", "pipeline/full", "--watch")

    assert Path("out.txt").read_text() == str(number)
    assert curve() == list(range(STEPS))
    assert sorted(sqlite3.connect("mlflow.db").execute("SELECT name, status FROM runs")) == [
        ("pipeline", "FINISHED"),
        ("train", "FINISHED"),
    ]

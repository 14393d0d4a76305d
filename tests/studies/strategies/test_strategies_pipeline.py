"""A small comparison by `dvc repro studies/strategies/dvc.yaml`, in a copy of the project: minutes long."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import yaml

from tests.stages.test_pipeline import ENVIRONMENT, dvc, small_copy

pytestmark = pytest.mark.slow

FILE, PARAMS = "studies/strategies/dvc.yaml", "studies/strategies/params.yaml"
STRATEGIES, DISTILLATIONS, SEEDS = ["uniform", "bestup-20k-acc"], ["adaptive", "temperature-2"], [0, 1]
SMALL = {
    "strategies": STRATEGIES,
    "distillations": DISTILLATIONS,
    "seeds": SEEDS,
    "space": "nas/spaces/smoke.yaml",
    "runtime": {"evaluators": 1},
    "recipe": {"batch": 32},
    "evaluation": {"batch": 64, "calibration_batches": 1},
    "pretrain": {"epochs": 1, "subnetworks": 16, "trees": 10, "max_depth": 6},
    "continued": {"epochs": 1},
    "train": {"epochs": 1},
    "measure": {"buckets": 2, "architectures": 4, "mutations": 2, "crossovers": 2, "rounds": 1},
    "scratch": {"strategy": "bestup-20k-acc", "models": 2},
    "report": {"trial_samples": 2, "pool": 10_000},
}


def of_seed(seed: int) -> list[str]:
    """Stages that run for a seed."""
    trained = [f"train@{strategy}-{seed}" for strategy in STRATEGIES] + [f"distill@{name}-{seed}" for name in DISTILLATIONS]
    return [*trained, *(f"{stage}@{seed}" for stage in ("pretrain", "continued", "wide", "scratch"))]


def change(folder: Path, **sections) -> None:
    """Put entries, or single keys of sections, into the comparison's parameters."""
    found = yaml.safe_load((folder / PARAMS).read_text())
    for key, value in sections.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    (folder / PARAMS).write_text(yaml.safe_dump(found, sort_keys=False))


def ran(output: str) -> list[str]:
    """Stages that dvc ran, without the file they are in."""
    return sorted(re.findall(r"Running stage '(?:[^':]*:)?([^']+)'", output))


def mlflow_runs(folder: Path) -> list:
    """All runs that MLflow has of the project."""
    import mlflow  # takes seconds

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


def hashes(folder: Path, stage: str) -> dict[str, str]:
    lock = yaml.safe_load((folder / FILE).with_suffix(".lock").read_text())
    return {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project after its first comparison, and what dvc printed. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("comparison") / "project"
    small_copy(folder)
    change(folder, **SMALL)
    return folder, dvc(folder, "repro", FILE).stdout


@pytest.fixture
def project(finished, tmp_path) -> Path:
    """A finished comparison of one's own."""
    return Path(shutil.copytree(finished[0], tmp_path / "project", symlinks=True))


def test_everything_is_made(finished):
    """Each stage ran once for each strategy or loss and seed; figures, tables and pages are there, and the summary is that of the runs."""
    folder, output = finished
    assert ran(output) == sorted(["split", "report", *of_seed(0), *of_seed(1)])
    outputs = folder / "studies/strategies/outputs"
    stages = yaml.safe_load((folder / FILE).read_text())["stages"]
    for entry in (entry for kind in ("outs", "metrics", "plots") for entry in stages["report"][kind]):
        assert (folder / (entry if isinstance(entry, str) else next(iter(entry)))).stat().st_size > 0, entry
    summary = json.loads((outputs / "summary.json").read_text())
    distilled = summary.pop("distillations")
    assert list(summary) == STRATEGIES and list(distilled) == DISTILLATIONS
    runs = [("train", name, found) for name, found in summary.items()] + [("distill", name, found) for name, found in distilled.items()]
    for stage, name, found in runs:
        tops = [json.loads((outputs / stage / f"{name}-{s}" / "metrics.json").read_text())["top1_best"] for s in SEEDS]
        assert found["seeds"] == 2
        assert found["top1_best"]["mean"] == pytest.approx(sum(tops) / 2, abs=1e-5)
        assert found["top1_best"]["std"] == pytest.approx(abs(tops[0] - tops[1]) / 2**0.5, abs=1e-5)


def test_all_runs_measured_the_same_architectures(finished):
    """Those of round 0, in the same order: 2 and 4 in each of 2 buckets; the evolution that follows costs as much for all."""
    folder, _ = finished
    outputs = folder / "studies/strategies/outputs"
    paths = [path for stage in ("train", "distill") for path in sorted((outputs / stage).glob("*/evaluated.parquet"))]
    frames = [pd.read_parquet(path) for path in paths]
    first = [frame[frame["round"] == 0].drop(columns="top1") for frame in frames]
    assert len(frames) == 8 and [len(f) for f in first] == [10] * 8 and [len(f) for f in frames] == [14] * 8
    assert all(f.equals(first[0]) for f in first)


def test_nothing_runs_twice(project):
    """A second `dvc repro` has nothing to do, and `dvc status` is clean."""
    assert ran(dvc(project, "repro", FILE).stdout) == []
    assert "up to date" in dvc(project, "status", FILE).stdout


def test_a_seed_more_runs_what_it_adds(project):
    """No stage of the seeds that were there runs again; the report does, over three seeds; MLflow has all under one parent."""
    change(project, seeds=[0, 1, 2])
    assert ran(dvc(project, "repro", FILE).stdout) == sorted(["report", *of_seed(2)])
    summary = json.loads((project / "studies/strategies/outputs/summary.json").read_text())
    assert [summary[strategy]["seeds"] for strategy in STRATEGIES] == [3, 3]
    runs = mlflow_runs(project)
    (parent,) = (r for r in runs if r.info.run_name == "strategies")
    assert sum(r.data.tags.get("mlflow.parentRunId") == parent.info.run_id and "nas.strategy" in r.data.tags for r in runs) == 12


def test_a_killed_training_resumes_with_the_same_result(project):
    """kill -9 after the first epochs of four: repro resumes, and every output has the hash of an undisturbed run's."""
    change(project, train={"epochs": 4})
    shutil.rmtree(project / ".checkpoints")
    stage, pattern = "train@bestup-20k-acc-1", ".checkpoints/strategies-train-bestup-20k-acc-1-*/state.pt"
    command = [sys.executable, "-m", "dvc", "repro", f"{FILE}:{stage}"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=project, env=ENVIRONMENT, **options) as process:
        while not list(project.glob(f"{pattern}.previous")):  # the first one is from before training
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        below = psutil.Process(process.pid).children(recursive=True)
        victims = [p for p in below if "studies.strategies.train" in " ".join(p.cmdline())]
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
    assert victims and process.returncode != 0, output
    (state,) = project.glob(pattern)
    epochs = len(torch.load(state, weights_only=True)["history"])
    assert 1 <= epochs < 4

    output = dvc(project, "repro", f"{FILE}:{stage}").stdout
    steps, before = map(int, re.search(r"train: steps: (\d+) to do, (\d+) of them done", output).groups())
    assert ran(output) == [stage] and before * 4 == steps * epochs
    resumed = hashes(project, stage)

    shutil.rmtree(project / ".checkpoints")
    output = dvc(project, "repro", "--force", "--single-item", f"{FILE}:{stage}").stdout
    assert f"train: steps: {steps} to do\n" in output
    assert hashes(project, stage) == resumed


def test_mlflow_has_one_run_of_the_comparison(finished):
    """One parent; a child a strategy or loss and seed, with the same final metrics; on the parent nothing of a single child."""
    runs = mlflow_runs(finished[0])
    (parent,) = (r for r in runs if r.info.run_name == "strategies")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.info.status for r in runs if r.info.run_name != "pipeline"} == {"FINISHED"}
    assert len(children) == len(of_seed(0)) * 2 + 1

    trained = [r for r in children if "nas.strategy" in r.data.tags]
    names = {(r.data.tags["nas.strategy"], int(r.data.params["seed"])): r.info.run_name for r in trained}
    tags = [*STRATEGIES, *(f"uniform, {name}" for name in DISTILLATIONS)]
    assert names == {(tag, seed): f"{tag}, seed {seed}" for tag in tags for seed in SEEDS} and len(trained) == 8
    finals = {frozenset(k for k in r.data.metrics if not k.startswith("system/")) for r in trained}
    assert len(finals) == 1 and {f"search/{k}" for k in ("hypervolume", "top1_low", "top1_best", "evaluations")} <= next(iter(finals))

    compared = [*STRATEGIES, *(f"distillations/{name}" for name in DISTILLATIONS)]
    expected = {f"mean/{name}/{figure}" for name in compared for figure in ("hypervolume", "top1_low", "top1_best")}
    assert set(parent.data.metrics) == expected
    assert not {"seed", "strategy"} & set(parent.data.params) and "nas.strategy" not in parent.data.tags
    assert parent.data.params["strategies"] == str(STRATEGIES)

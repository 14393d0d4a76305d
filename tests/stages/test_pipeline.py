"""The whole pipeline by `dvc repro`, in a copy of the project with the preset `smoke`; takes minutes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import yaml

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STAGES = ["split", "pretrain", "fit_predictor", "train", "latency", "search", "export", "transfer", "report"]
NOT_OURS = ("DVC_", "MLFLOW_", "NAS_", "PREFECT_", "PYTHONPATH", "GIT_")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(NOT_OURS)} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@localhost",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@localhost",
}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command in the folder; stdout has its errors, too."""
    options = {"cwd": folder, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, **options, check=False)
    assert not check or done.returncode == 0, done.stdout[-5000:]
    return done


def dvc(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess:
    return run(folder, sys.executable, "-m", "dvc", *words, check=check)


def ran(output: str) -> list[str]:
    """Stages that dvc ran."""
    return re.findall(r"Running stage '(\w+)'", output)


def set_param(folder: Path, section: str, key: str, value: object) -> None:
    file = folder / "params.yaml"
    found = yaml.safe_load(file.read_text())
    found[section][key] = value
    file.write_text(yaml.safe_dump(found, sort_keys=False))


def output_hashes(folder: Path, stage: str) -> dict[str, str]:
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for out in lock["stages"][stage]["outs"]}


def metrics(folder: Path, stage: str) -> dict[str, float]:
    return json.loads((folder / "outputs" / stage / "metrics.json").read_text())


def small_copy(folder: Path) -> None:
    """The project without the outputs of its stages, under git, with the preset `smoke`."""
    for name in run(ROOT, "git", "ls-files", "-co", "--exclude-standard").stdout.splitlines():
        made = name.endswith("dvc.lock") or re.match(r"((pipelines|studies)/\w+/)?outputs/|docs/", name)
        if (ROOT / name).is_file() and not made:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "start")
    run(folder, sys.executable, "-m", "nas.runtime.presets", "smoke")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project after its first `dvc repro`, and the output of that. Tests do not change it."""
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    small_copy(folder)
    return folder, dvc(folder, "repro").stdout


@pytest.fixture
def project(finished, tmp_path) -> Path:
    """A finished project that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "project", symlinks=True))


def test_every_stage_runs_once_and_leaves_its_outputs(finished):
    """Every output of dvc.yaml exists and is not empty."""
    folder, output = finished
    assert sorted(ran(output)) == sorted(STAGES)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    for stage in stages.values():
        for entry in [*stage.get("outs", []), *stage["metrics"], *stage.get("plots", [])]:
            path = folder / (entry if isinstance(entry, str) else next(iter(entry)))
            assert path.exists() and (any(path.iterdir()) if path.is_dir() else path.stat().st_size), path


def test_metrics_have_the_agreed_keys(finished):
    """Accuracies are percentages, correlations are within -1 and 1, sizes are those of the parameters."""
    folder, _ = finished
    for stage in ("pretrain", "train"):
        found = metrics(folder, stage)
        assert found.keys() == {"top1_smallest", "top1_largest"} and all(0 <= v <= 100 for v in found.values())
    found = metrics(folder, "fit_predictor")
    assert found.keys() == {"kendall_tau", "kendall_tau_flops", "subnetworks"} and found["subnetworks"] == 16
    assert all(-1 <= found[key] <= 1 for key in ("kendall_tau", "kendall_tau_flops"))
    found = metrics(folder, "search")
    assert found.keys() == {"evaluations", "hypervolume", "top1_low", "top1_best", "hypervolume_random", "family"}
    assert 1 <= found["family"] <= 3 and found["evaluations"] == 8 + 2 * (4 + 4)  # the front of so few may be smaller than asked for
    assert all(0 <= found[key] <= 1 for key in ("hypervolume", "hypervolume_random"))
    found = metrics(folder, "latency")
    assert {"kendall_tau_latency", "kendall_tau_flops", "median_relative_error", "noise_floor"} <= found.keys()
    found = metrics(folder, "transfer")
    assert found.keys() == {"greek_top1", "digits_top1"} and all(0 <= v <= 100 for v in found.values())


def test_nothing_runs_twice(project):
    """A second `dvc repro` has nothing to do, and `dvc status` is clean."""
    assert ran(dvc(project, "repro").stdout) == []
    assert "up to date" in dvc(project, "status", "dvc.yaml").stdout


def test_a_parameter_reruns_what_depends_on_it(project):
    """Another family size runs search and the stages after it; no training."""
    set_param(project, "search", "models", 1)
    assert sorted(ran(dvc(project, "repro").stdout)) == ["export", "report", "search", "transfer"]
    assert metrics(project, "search")["family"] == 1


def test_a_former_parameter_costs_no_computation(project):
    """The run cache has the outputs of every stage, those that git keeps included."""
    before = {path.name: path.read_bytes() for path in (project / "outputs" / "report").iterdir()}
    set_param(project, "search", "models", 1)
    dvc(project, "repro")
    set_param(project, "search", "models", 3)
    output = dvc(project, "repro").stdout
    assert ran(output) == [] and "is cached - skipping run" in output
    assert {path.name: path.read_bytes() for path in (project / "outputs" / "report").iterdir()} == before


def test_another_latency_table_runs_no_search(project):
    """By default the search takes none: only the report, which adds the latencies, depends on it."""
    set_param(project, "latency", "repetitions", 5)
    assert sorted(ran(dvc(project, "repro").stdout)) == ["latency", "report"]
    columns = pd.read_parquet(project / "outputs" / "search" / "evaluated.parquet").columns
    assert "latency_ms" not in columns and "latency_ms" in pd.read_csv(project / "outputs" / "report" / "family.csv").columns


def test_a_latency_objective_makes_the_search_wait_for_the_table(project):
    """search.latency_table names the file that it then depends on."""
    set_param(project, "search", "latency_table", "outputs/latency/table.json")
    set_param(project, "search", "costs", ["latency_ms"])
    assert sorted(ran(dvc(project, "repro").stdout)) == ["export", "report", "search", "transfer"]
    assert "latency_ms" in pd.read_parquet(project / "outputs" / "search" / "evaluated.parquet").columns
    set_param(project, "latency", "repetitions", 5)
    assert {"latency", "search"} <= set(ran(dvc(project, "repro").stdout))


def kill_in_the_middle(project: Path, stage: str, begun: Callable[[], bool] | None = None) -> str:
    """`dvc repro` the stage and kill -9 its process once it has begun (has a checkpoint); what dvc printed."""
    trained = f".checkpoints/{stage}-*/state.pt.previous"  # the first state is from before training
    begun = begun or (lambda: bool(list(project.glob(trained))))
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", stage],
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while not begun():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        victims = [p for p in psutil.Process(process.pid).children(recursive=True) if f"nas.stages.{stage}" in " ".join(p.cmdline())]
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
    assert victims and process.returncode != 0, output
    return output


def test_a_killed_training_resumes_and_gives_the_same_outputs(project):
    """After kill -9 in the first epochs of four, every output has the hash of an uninterrupted run."""
    set_param(project, "train", "epochs", 4)
    shutil.rmtree(project / ".checkpoints")
    kill_in_the_middle(project, "train")
    (state,) = project.glob(".checkpoints/train-*/state.pt")
    epochs = len(torch.load(state, weights_only=True)["history"])
    assert 1 <= epochs < 4

    output = dvc(project, "repro", "train").stdout
    steps, before = map(int, re.search(r"train: steps: (\d+) to do, (\d+) of them done", output).groups())
    assert before * 4 == steps * epochs
    resumed = output_hashes(project, "train")

    shutil.rmtree(project / ".checkpoints")
    output = dvc(project, "repro", "--force", "--single-item", "train").stdout
    assert f"train: steps: {steps} to do\n" in output
    assert output_hashes(project, "train") == resumed


def scored(project: Path) -> list[str]:
    """Lines of all stored scores."""
    return [line for file in project.glob(".checkpoints/scores/*.jsonl") for line in file.read_text().splitlines()]


def test_a_killed_search_evaluates_nothing_twice(project):
    """After kill -9 within a round, repro evaluates the rest and gives the same outputs; another method reuses all scores."""
    undisturbed, every = output_hashes(project, "search"), sorted(scored(project))
    shutil.rmtree(project / ".checkpoints")
    shutil.rmtree(project / ".dvc" / "cache" / "runs")
    (project / "outputs/search/family.json").unlink()
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    del lock["stages"]["search"]
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    kill_in_the_middle(project, "search", lambda: len(scored(project)) >= 11)  # 8 at first, then rounds of 8
    kept = len(scored(project))
    assert 11 <= kept < len(every)
    dvc(project, "repro", "--single-item", "search")
    assert output_hashes(project, "search") == undisturbed and sorted(scored(project)) == every

    set_param(project, "search", "method", "nsga2")
    output = dvc(project, "repro", "--single-item", "search").stdout
    asked = sum(int(n) for n in re.findall(r"search: (?:nsga2|random): (\d+) to do", output))
    found = [json.loads(line)["genes"] for line in scored(project)]
    assert len(found) == len(every) + asked == len({tuple(genes) for genes in found})
    assert asked < 24 + 24


def test_a_wrong_key_stops_the_run_and_is_named(project):
    """The message has the key and the closest known one; there is no traceback."""
    set_param(project, "train", "epoch", 3)
    failed = dvc(project, "repro", "train", check=False)
    assert failed.returncode != 0
    assert "params.yaml: train.epoch is not a known key; did you mean 'epochs'?" in failed.stdout
    assert "Traceback" not in failed.stdout

"""Stages on two processes by `dvc repro`, in a copy of the project with the preset `smoke`; takes minutes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import psutil
import pytest

from tests.stages.test_pipeline import ENVIRONMENT, dvc, output_hashes, ran, scored, set_param, small_copy

pytestmark = pytest.mark.slow

EPOCHS = 4  # of train: long enough to be stopped in the middle
SERVED = ("evaluated.parquet", "family.json", "family")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """A copy of the project in which two processes trained, undisturbed, and what that printed. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("launcher") / "project"
    small_copy(folder)
    set_param(folder, "launcher", "processes", 2)
    set_param(folder, "train", "epochs", EPOCHS)
    return folder, dvc(folder, "repro", "train").stdout


@pytest.fixture
def project(trained, tmp_path) -> Path:
    """Such a project of one's own, where train has to run again."""
    folder = Path(shutil.copytree(trained[0], tmp_path / "project", symlinks=True))
    shutil.rmtree(folder / ".checkpoints")
    return folder


@contextmanager
def repro(folder: Path, stage: str) -> Iterator[subprocess.Popen]:
    """`dvc repro` of one stage, by force, in a session of its own, as in a terminal; ended at the end."""
    words = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage]
    options = {"cwd": folder, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            for left in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                left.kill()
            process.kill()


def until(met: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something to happen while the process runs."""
    while not met():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


def has_checkpoint(folder: Path) -> bool:
    """Of an epoch: the first state is that before all."""
    return bool(list(folder.glob(".checkpoints/train-*/state.pt.previous")))


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """What torchrun started, by number."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found[child.environ()["RANK"]] = child
        except (psutil.Error, KeyError):
            continue
    return [found[rank] for rank in sorted(found)]


def of_project(folder: Path) -> list[psutil.Process]:
    """All processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the search's results."""
    out = folder / "outputs" / "search"
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}


def test_two_processes_train_under_dvc_and_write_once(trained):
    """Both training stages run on two; each prints its epochs once and has one finished MLflow run."""
    folder, output = trained
    assert ran(output) == ["split", "pretrain", "fit_predictor", "train"]
    for epoch in range(1, EPOCHS + 1):
        assert output.count(f"train: epoch {epoch} of {EPOCHS}") == 1
    store = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [e for e in store.search_experiments() if e.name == "pareto-nas"]
    runs = store.search_runs([experiment.experiment_id])
    for stage in ("pretrain", "train"):
        assert [run.info.status for run in runs if run.info.run_name == stage] == ["FINISHED"]
        assert len(store.get_metric_history(next(r for r in runs if r.info.run_name == stage).info.run_id, f"{stage}/top1_largest")) == (
            EPOCHS if stage == "train" else 1
        )


def test_two_processes_find_the_family_that_one_finds(trained, tmp_path):
    """Byte for byte: with nothing known, with every score known, and with half of the scores known."""
    folder = Path(shutil.copytree(trained[0], tmp_path / "project", symlinks=True))
    dvc(folder, "repro", "latency")
    found, evaluated = {}, {}
    scores = folder / ".checkpoints" / "scores"
    for name, processes, keep in (("one", 1, 0), ("two", 2, 0), ("known", 2, None), ("half", 2, 20)):
        set_param(folder, "launcher", "processes", processes)
        for file in scores.glob("*.jsonl"):
            file.write_text("".join(file.read_text().splitlines(keepends=True)[:keep]))
        before = len(scored(folder))
        shutil.rmtree(folder / "outputs" / "search", ignore_errors=True)
        dvc(folder, "repro", "--force", "--single-item", "search")
        found[name], evaluated[name] = contents(folder), len(scored(folder)) - before
    assert {path.split("/")[0] for path in found["one"]} >= set(SERVED)
    assert found["two"] == found["known"] == found["half"] == found["one"]
    assert evaluated["two"] == evaluated["one"] > 20 and evaluated["known"] == 0 and evaluated["half"] == evaluated["one"] - 20


def test_a_killed_process_is_started_again_and_the_stage_ends_the_same(trained, project):
    """kill -9 of the second after an epoch: dvc sees nothing of it, and every output has the hash of the undisturbed run's."""
    with repro(project, "train") as process:
        until(lambda: has_checkpoint(project), process)
        workers(process)[1].kill()
        output = process.communicate()[0]
    assert process.returncode == 0, output
    steps, before = map(int, re.search(r"train: steps: (\d+) to do, (\d+) of them done", output).groups())
    assert 0 < before < steps
    assert output_hashes(project, "train") == output_hashes(trained[0], "train")


@pytest.mark.parametrize("how", ["ctrl-c", "sigterm", "torchrun killed"])
def test_stopped_in_the_middle_nothing_is_left_over_and_it_goes_on(how, trained, project):
    """Ctrl-C reaches dvc and torchrun, SIGTERM dvc alone, SIGKILL torchrun alone; the next `dvc repro` ends as the undisturbed run."""
    with repro(project, "train") as process:
        until(lambda: has_checkpoint(project), process)
        if how == "ctrl-c":
            os.killpg(process.pid, signal.SIGINT)
        elif how == "sigterm":
            process.terminate()
        else:
            workers(process)[0].parent().kill()
        output = process.communicate()[0]
        assert process.returncode != 0, output
        psutil.wait_procs(of_project(project), timeout=40)
        assert of_project(project) == []
    again = dvc(project, "repro", "--force", "--single-item", "train").stdout  # by force: DVC remembers the undisturbed run
    assert re.search(r"train: steps: \d+ to do, [1-9]\d* of them done", again)
    assert output_hashes(project, "train") == output_hashes(trained[0], "train")


def test_all_that_listens_does_so_on_this_machine_alone(project):
    """Sockets of dvc, torchrun and both processes while they train; there are some, so the look is a true one."""
    with repro(project, "train") as process:
        until(lambda: has_checkpoint(project), process)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        listening = [c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 4 and set(listening) <= {"127.0.0.1", "::1"}


def test_a_batch_that_cannot_be_divided_is_an_error_before_anything_starts(project):
    """33 images and two processes: the key is named, torchrun has started nothing and tries nothing again."""
    set_param(project, "recipe", "batch", 33)
    failed = dvc(project, "repro", "--single-item", "train", check=False)
    assert failed.returncode != 0
    assert failed.stdout.count("recipe.batch 33 cannot be divided among 2 processes") == 1
    assert "Traceback" not in failed.stdout and "torch" not in failed.stdout

"""Stages that are killed, run out of disk or lose the time end with the bytes of an uninterrupted run. Minutes long."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

STAGES = ["split", "pretrain", "fit_predictor", "train", "latency", "search", "export", "transfer", "report"]
KILLS = 3  # per stage


def kill_after(project, stage: str, after_s: float) -> bool:
    """Start the stage and kill -9 all its processes after some seconds; False if it ended before that."""
    project.remove_outputs(stage)
    process = project.start(stage)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0, project.log()[-5000:]
    return False


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_random_points_ends_the_same(project, stage):
    """After kill -9 three times, each time resumed, all outputs have the same hashes and no point of a curve is duplicated."""
    rng = random.Random(f"{stage}")
    project.forget(stage)
    kills = 0
    for _ in range(30):
        if kill_after(project, stage, rng.uniform(0.05, 0.95) * project.seconds[stage]):
            kills += 1
        else:
            project.forget(stage)
        if kills == KILLS:
            break
    project.remove_outputs(stage)
    project.finish(stage)
    assert kills == KILLS
    assert project.hashed(stage) == project.hashes[stage]
    assert project.duplicates() == []


@pytest.mark.parametrize("stage", ["train", "latency", "search"])
def test_a_jumping_clock_changes_no_output(project, stage):
    """Limits, progress and scores do not depend on the time of day."""
    project.forget(stage)
    project.finish(stage, "--jumps")
    assert project.hashed(stage) == project.hashes[stage]
    assert all(0 <= int(seconds) < 600 for seconds in re.findall(r"done in (-?\d+) s", project.log()))


def test_a_truncated_checkpoint_costs_an_epoch(project):
    """The previous state is used, a message says so, and the training ends the same."""
    project.forget("train")
    process = project.start("train")
    while not list(project.folder.glob(".checkpoints/train-*/state.pt.previous")):
        assert process.poll() is None, project.log()[-5000:]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (state,) = project.folder.glob(".checkpoints/train-*/state.pt")
    os.truncate(state, state.stat().st_size // 2)
    project.remove_outputs("train")
    project.finish("train")
    assert "resuming from the previous one" in project.log() and ", 0 of them done" not in project.log()
    assert project.hashed("train") == project.hashes["train"]
    assert project.duplicates() == []


def test_a_stage_resumes_after_a_full_disk(project):
    """With space for the first epoch only it stops with one line and that epoch's state; with more space it ends the same."""
    project.forget("train")
    weights = project.folder / "outputs/pretrain/weights.safetensors"
    disk, size = project.folder / ".checkpoints", 5 * weights.stat().st_size  # first and early weights, one state with momentum
    shutil.rmtree(disk)
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    try:
        assert project.start("train").wait() == 1
        assert re.search(r"error: no space left to write .*state\.pt: .* MiB free; make room and run again", project.log())
        assert "Traceback" not in project.log()
        (state,) = disk.glob("train-*/state.pt")
        assert len(torch.load(state, weights_only=True)["history"]) == 1
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", disk], check=True)
        project.remove_outputs("train")
        project.finish("train")
    finally:
        subprocess.run(["umount", disk], check=True)
    assert re.search(r"train: steps: \d+ to do, \d+ of them done", project.log())
    assert project.hashed("train") == project.hashes["train"]
    assert project.duplicates() == []


@pytest.mark.parametrize("weights", [0, 2, 4])
def test_a_disk_without_any_space(project, tmp_path, weights):
    """With outputs, checkpoints and MLflow's database on one full disk the stage stops with one line; with space it ends the same."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    try:
        copied = replace(project, folder=Path(shutil.copytree(project.folder, disk / "project", symlinks=True)))
        space = weights * (copied.folder / "outputs/train/weights.safetensors").stat().st_size
        copied.forget("train")
        size = shutil.disk_usage(disk).used + space + 2**16
        subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
        assert copied.start("train").wait() == 1
        assert re.search(r"error: (.|\n)*(make room|but only .* MiB are free|No space left|disk is full)", copied.log()), copied.log()
        assert "Traceback" not in copied.log()
        subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
        copied.remove_outputs("train")
        copied.finish("train")
        assert copied.hashed("train") == project.hashes["train"]
        assert copied.duplicates() == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_simultaneous_repros(project):
    """One runs the stage, the other waits or stops with one line; the outputs equal those of a single run."""
    project.run(sys.executable, "-m", "dvc", "commit", "--force", "split")
    project.forget("pretrain")
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", "pretrain"]
    options = {"cwd": project.folder, "env": project.environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert 0 in [process.returncode for process in both], printed
    assert sum("Running stage 'pretrain'" in text for text in printed) >= 1 and not any("Traceback" in text for text in printed)
    assert project.hashed("pretrain") == project.hashes["pretrain"]
    output = project.run(*command).stdout
    assert "Running stage" not in output
    assert project.duplicates() == []

"""Checkpoints and weights are complete or absent, whatever happens while they are written."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from nas.runtime import checkpoint
from nas.runtime.checkpoint import Checkpoint, CheckpointError, load_weights, need_space, save_weights

FINGERPRINT = "0123456789abcdef" * 4


@pytest.fixture
def opened(tmp_path):
    with Checkpoint(tmp_path, "train", FINGERPRINT) as opened:
        yield opened


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)


def truncate(path: Path, keep: float) -> None:
    """Truncate a file to a number of bytes or, below 1, to a share of its size."""
    os.truncate(path, int(keep * path.stat().st_size) if keep < 1 else keep)


def test_a_state_is_loaded_as_saved(opened, tmp_path):
    """Tensors, numbers and strings are restored; the folder is named after the stage and the fingerprint."""
    assert opened.load() is None
    state = {"weights": {"a": torch.arange(3.0)}, "epoch": 2, "history": [{"loss": 0.5, "name": "x"}], "none": None}
    opened.save(state)
    loaded = opened.load()
    assert torch.equal(loaded["weights"].pop("a"), state["weights"].pop("a")) and loaded == state
    assert (tmp_path / ".checkpoints" / "train-0123456789abcdef" / "state.pt").is_file()


def test_other_parameters_have_their_own_state(opened, tmp_path):
    """Another fingerprint or another name has no state."""
    opened.save({"epoch": 1})
    assert opened.load("measured.pt") is None
    with Checkpoint(tmp_path, "train", "f" * 64) as other:
        assert other.load() is None


def test_folders_of_finished_stages_are_removed_by_the_next(tmp_path):
    """The folder of a finished stage is removed by another stage; that of a stopped stage stays."""
    with Checkpoint(tmp_path, "pretrain", FINGERPRINT) as finished:
        finished.save({"epoch": 1})
    with pytest.raises(KeyboardInterrupt), Checkpoint(tmp_path, "search", FINGERPRINT) as stopped:
        stopped.save({"epoch": 2})
        raise KeyboardInterrupt
    with Checkpoint(tmp_path, "train", FINGERPRINT):
        pass
    assert not finished.folder.exists()
    with stopped:
        assert stopped.load() == {"epoch": 2}


def test_a_finished_stage_that_runs_again_starts_from_scratch(tmp_path):
    """`dvc repro --force` does not read the last state of the finished run."""
    with Checkpoint(tmp_path, "pretrain", FINGERPRINT) as finished:
        finished.save({"epoch": 1})
    with Checkpoint(tmp_path, "pretrain", FINGERPRINT) as second:
        assert second.load() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_a_crash_while_writing_leaves_the_old_state(opened, monkeypatch, error):
    """With half of the new state on disk the old one is loaded, and the next save works."""
    opened.save({"epoch": 1})
    save = torch.save

    def crash(state, file):
        file.write(b"PK\x03\x04 half a state")
        file.flush()
        raise error("crashed")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(error):
        opened.save({"epoch": 2})
    assert opened.load() == {"epoch": 1}
    monkeypatch.setattr(torch, "save", save)
    opened.save({"epoch": 3})
    assert opened.load() == {"epoch": 3}


def _save_forever(root, ready) -> None:
    torch.set_num_threads(1)  # a fork lacks OpenMP's other threads
    with Checkpoint(root, "train", FINGERPRINT) as opened:
        epoch = 0
        while True:
            epoch += 1
            opened.save({"epoch": epoch, "weights": torch.full((200_000,), float(epoch))})
            if epoch == 3:
                ready.set()


def test_a_killed_writer_leaves_a_complete_state_and_no_lock(tmp_path):
    """After kill -9 during a save another process opens the folder at once and loads a complete state."""
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    writer = fork.Process(target=_save_forever, args=(tmp_path, ready), daemon=True)
    writer.start()
    assert ready.wait(60)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with Checkpoint(tmp_path, "train", FINGERPRINT) as opened:
        state = opened.load()
    assert state["epoch"] >= 3 and torch.equal(state["weights"], torch.full((200_000,), float(state["epoch"])))


def _try_to_hold(root, answers) -> None:
    try:
        with Checkpoint(root, "train", FINGERPRINT):
            answers.put("held")
    except CheckpointError as error:
        answers.put(str(error))


def test_a_second_process_is_an_error(tmp_path):
    """While one process has the lock another raises; afterwards it opens the folder."""
    fork = multiprocessing.get_context("fork")

    def answer() -> str:
        answers = fork.SimpleQueue()
        other = fork.Process(target=_try_to_hold, args=(tmp_path, answers))
        other.start()
        other.join(60)
        return answers.get()

    with Checkpoint(tmp_path, "train", FINGERPRINT) as opened:
        refused = answer()
    assert "another process is running this stage" in refused and str(opened.folder / "lock") in refused
    assert answer() == "held"


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_names_the_folder_to_delete(opened, keep):
    """The file is empty, has a few bytes, half of them or all but the end."""
    opened.save({"weights": torch.arange(1000.0)})
    path = opened.folder / "state.pt"
    truncate(path, keep)
    with pytest.raises(CheckpointError, match=rf"{path} .*is damaged.*delete {opened.folder} to start"):
        opened.load()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_replaced_by_the_previous_one(opened, capsys, keep):
    """A message names it; the next save keeps the intact state, not the damaged one."""
    for epoch in (1, 2, 3):
        opened.save({"epoch": epoch, "weights": torch.arange(1000.0)})
    path = opened.folder / "state.pt"
    truncate(path, keep)
    assert opened.load()["epoch"] == 2
    assert re.search(rf"{path} \(\d+ bytes\) is damaged .*resuming from the previous one, written 20", capsys.readouterr().out)
    assert opened.load()["epoch"] == 2 and capsys.readouterr().out == ""
    opened.save({"epoch": 3})
    truncate(path, keep)
    assert opened.load()["epoch"] == 2


def test_two_truncated_checkpoints_name_the_folder_to_delete(opened):
    """No complete state is left."""
    for epoch in (1, 2):
        opened.save({"epoch": epoch})
    for name in ("state.pt", "state.pt.previous"):
        truncate(opened.folder / name, 0.5)
    with pytest.raises(CheckpointError, match=rf"state\.pt .*is damaged.*delete {opened.folder} to start"):
        opened.load()


def test_a_crash_between_two_renames_loses_no_state(opened, monkeypatch, capsys):
    """The old state is renamed and the new one is not yet: the old one is used."""
    opened.save({"epoch": 1})
    replace = os.replace

    def crash(source, target):
        if str(source).endswith(".new"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        opened.save({"epoch": 2})
    monkeypatch.setattr(os, "replace", replace)
    assert opened.load() == {"epoch": 1} and "resuming from the previous one" in capsys.readouterr().out


class Evil:
    """An object whose unpickling runs code."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickled_object_is_an_error(opened, tmp_path):
    """With weights_only its code does not run."""
    torch.save({"epoch": Evil(tmp_path / "ran")}, opened.folder / "state.pt")
    with pytest.raises(CheckpointError):
        opened.load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("numbers", [3, 10**6])
def test_a_full_disk_is_reported_and_the_old_state_kept(opened, numbers):
    """Small and large writes to /dev/full fail as on a full disk."""
    opened.save({"epoch": 1})
    (opened.folder / "state.pt.new").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"no space left to write .*state\.pt: .* MiB free; make room"):
        opened.save({"weights": torch.zeros(numbers)})
    assert opened.load() == {"epoch": 1}


def test_a_full_disk_behind_a_torch_error_is_reported(opened, monkeypatch):
    """torch's writer may raise a RuntimeError; with less than a MiB free it counts as a full disk."""

    def hidden(state, file):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", hidden)
    with pytest.raises(RuntimeError, match="unexpected pos") as other:
        opened.save({})
    assert not isinstance(other.value, CheckpointError)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(CheckpointError, match=r"no space left .*0\.0 MiB free"):
        opened.save({})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_keeps_the_last_states(small_disk):
    """A third state of 1.5 MiB does not fit beside two others, which stay complete; with more space it is saved."""
    state = {"weights": torch.arange(400_000.0)}
    with Checkpoint(small_disk, "train", FINGERPRINT) as opened:
        for epoch in (1, 2):
            opened.save({"epoch": epoch, **state})
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"no space left to write .*state\.pt: .* MiB free; make room"):
                opened.save({"epoch": 3, **state})
            assert opened.load()["epoch"] == 2
        subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
        opened.save({"epoch": 3, **state})
        assert opened.load()["epoch"] == 3


def test_missing_space_is_an_error_before_the_work(tmp_path, monkeypatch):
    """For 100 MiB of 50 the message has both numbers; 50 of 50 are enough."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 50 * 2**20))
    need_space(tmp_path, 50 * 2**20, "stage train")
    with pytest.raises(CheckpointError, match=r"stage train needs 100 MiB under .*, but only 50 MiB are free"):
        need_space(tmp_path, 100 * 2**20, "stage train")


def test_equal_weights_give_equal_bytes(tmp_path):
    """DVC hashes the file, so the memory format must not matter; different weights differ."""
    save_weights(tmp_path / "a.safetensors", network())
    save_weights(tmp_path / "b.safetensors", network().to(memory_format=torch.contiguous_format))
    save_weights(tmp_path / "c.safetensors", network(1))
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_weights_are_loaded_as_saved(tmp_path):
    """Parameters and buffers are restored bit for bit; the folder is created."""
    path, source, target = tmp_path / "new" / "w.safetensors", network(), network(1)
    source(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)))  # moves the running statistics
    save_weights(path, source)
    load_weights(path, target)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
    assert os.listdir(path.parent) == ["w.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_truncated_weights_name_the_file(tmp_path, keep):
    """The file is empty, lacks the end of its header, half of it or its end."""
    path = tmp_path / "w.safetensors"
    save_weights(path, network())
    truncate(path, keep)
    with pytest.raises(CheckpointError, match=rf"the weights {path} cannot be read"):
        load_weights(path, network())


def test_missing_and_foreign_weights_name_the_file(tmp_path):
    """A missing file and weights of another network raise."""
    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError, match=rf"the weights {path} cannot be read"):
        load_weights(path, network())
    save_weights(path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=rf"the weights {path} cannot be read"):
        load_weights(path, network())


def test_weights_on_a_full_disk_keep_the_old_ones(tmp_path):
    """The error is reported, and the old file stays complete."""
    path = tmp_path / "w.safetensors"
    save_weights(path, network())
    before = path.read_bytes()
    (tmp_path / "w.new").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"no space left to write .*w\.safetensors"):
        save_weights(path, network(1))
    assert path.read_bytes() == before


def test_another_error_is_raised_unchanged(tmp_path):
    """A path that cannot be written is not reported as a full disk."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        save_weights(tmp_path / "file" / "w.safetensors", network())
    assert not isinstance(error.value, checkpoint.CheckpointError) and error.value.errno != errno.ENOSPC

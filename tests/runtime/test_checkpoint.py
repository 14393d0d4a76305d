"""Checkpoints and weights: whole or not there, whatever happens while they are written."""

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
def held(tmp_path):
    with Checkpoint(tmp_path, "train", FINGERPRINT) as held:
        yield held


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)


def cut(path: Path, keep: float) -> None:
    """Leave so many bytes of a file; below 1: such a share."""
    os.truncate(path, int(keep * path.stat().st_size) if keep < 1 else keep)


def test_a_state_comes_back(held, tmp_path):
    """Tensors, numbers, text and what holds them; before the first there is none; the folder is named after stage and parameters."""
    assert held.load() is None
    state = {"weights": {"a": torch.arange(3.0)}, "epoch": 2, "history": [{"loss": 0.5, "name": "x"}], "none": None}
    held.save(state)
    found = held.load()
    assert torch.equal(found["weights"].pop("a"), state["weights"].pop("a")) and found == state
    assert (tmp_path / ".checkpoints" / "train-0123456789abcdef" / "state.pt").is_file()


def test_states_of_other_parameters_are_apart(held, tmp_path):
    """Another fingerprint, or another name, begins with nothing."""
    held.save({"epoch": 1})
    assert held.load("measured.pt") is None
    with Checkpoint(tmp_path, "train", "f" * 64) as other:
        assert other.load() is None


def test_folders_of_finished_stages_go_when_the_next_starts(tmp_path):
    """One that came to its end is removed by another stage; one that was stopped stays, to go on from."""
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


def test_a_finished_stage_that_is_asked_for_again_starts_anew(tmp_path):
    """`dvc repro --force` computes; it does not read the last state of the run that is over."""
    with Checkpoint(tmp_path, "pretrain", FINGERPRINT) as finished:
        finished.save({"epoch": 1})
    with Checkpoint(tmp_path, "pretrain", FINGERPRINT) as again:
        assert again.load() is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_a_crash_while_writing_leaves_the_old_state(held, monkeypatch, error):
    """Half of the new state is on disk when it happens; the next save works."""
    held.save({"epoch": 1})
    save = torch.save

    def crash(state, file):
        file.write(b"PK\x03\x04 half a state")
        file.flush()
        raise error("crashed")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(error):
        held.save({"epoch": 2})
    assert held.load() == {"epoch": 1}
    monkeypatch.setattr(torch, "save", save)
    held.save({"epoch": 3})
    assert held.load() == {"epoch": 3}


def _write_for_ever(root, ready) -> None:
    torch.set_num_threads(1)  # a fork has none of OpenMP's other threads
    with Checkpoint(root, "train", FINGERPRINT) as held:
        epoch = 0
        while True:
            epoch += 1
            held.save({"epoch": epoch, "weights": torch.full((200_000,), float(epoch))})
            if epoch == 3:
                ready.set()


def test_a_killed_writer_leaves_a_whole_state_and_no_lock(tmp_path):
    """kill -9 in the middle of saving: another process can take the folder over at once and finds one state, whole."""
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    writer = fork.Process(target=_write_for_ever, args=(tmp_path, ready), daemon=True)
    writer.start()
    assert ready.wait(60)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with Checkpoint(tmp_path, "train", FINGERPRINT) as held:
        found = held.load()
    assert found["epoch"] >= 3 and torch.equal(found["weights"], torch.full((200_000,), float(found["epoch"])))


def _try_to_hold(root, answers) -> None:
    try:
        with Checkpoint(root, "train", FINGERPRINT):
            answers.put("held")
    except CheckpointError as error:
        answers.put(str(error))


def test_a_second_process_is_refused(tmp_path):
    """While one process holds the folder another is told so; afterwards it may."""
    fork = multiprocessing.get_context("fork")

    def answer() -> str:
        answers = fork.SimpleQueue()
        other = fork.Process(target=_try_to_hold, args=(tmp_path, answers))
        other.start()
        other.join(60)
        return answers.get()

    with Checkpoint(tmp_path, "train", FINGERPRINT) as held:
        refused = answer()
    assert "another process is running this stage" in refused and str(held.folder / "lock") in refused
    assert answer() == "held"


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_names_the_folder_to_delete(held, keep):
    """Empty, a few bytes, half of it, all but the end."""
    held.save({"weights": torch.arange(1000.0)})
    path = held.folder / "state.pt"
    cut(path, keep)
    with pytest.raises(CheckpointError, match=rf"{path} .*is damaged.*delete {held.folder} to start"):
        held.load()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_replaced_by_the_one_before(held, capsys, keep):
    """Which is said, with both; the next one saved keeps the good one, not the damaged one."""
    for epoch in (1, 2, 3):
        held.save({"epoch": epoch, "weights": torch.arange(1000.0)})
    path = held.folder / "state.pt"
    cut(path, keep)
    assert held.load()["epoch"] == 2
    assert re.search(rf"{path} \(\d+ bytes\) is damaged .*going on from the one before it, written 20", capsys.readouterr().out)
    assert held.load()["epoch"] == 2 and capsys.readouterr().out == ""
    held.save({"epoch": 3})
    cut(path, keep)
    assert held.load()["epoch"] == 2


def test_two_truncated_checkpoints_name_the_folder_to_delete(held):
    """Nothing whole is left to go on from."""
    for epoch in (1, 2):
        held.save({"epoch": epoch})
    for name in ("state.pt", "state.pt.previous"):
        cut(held.folder / name, 0.5)
    with pytest.raises(CheckpointError, match=rf"state\.pt .*is damaged.*delete {held.folder} to start"):
        held.load()


def test_a_crash_between_two_renames_loses_no_state(held, monkeypatch, capsys):
    """The old state has left its name, the new one has not got it: the old one is used."""
    held.save({"epoch": 1})
    replace = os.replace

    def crash(source, target):
        if str(source).endswith(".new"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        held.save({"epoch": 2})
    monkeypatch.setattr(os, "replace", replace)
    assert held.load() == {"epoch": 1} and "going on from the one before" in capsys.readouterr().out


class Evil:
    """An object whose unpickling runs code."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickled_object_is_refused(held, tmp_path):
    """weights_only: its code does not run."""
    torch.save({"epoch": Evil(tmp_path / "ran")}, held.folder / "state.pt")
    with pytest.raises(CheckpointError):
        held.load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("numbers", [3, 10**6])
def test_a_full_disk_is_told_and_the_old_state_kept(held, numbers):
    """/dev/full in the new file's place: every write to it fails as on a full disk, small and large."""
    held.save({"epoch": 1})
    (held.folder / "state.pt.new").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"no space left to write .*state\.pt: .* MiB free; make room"):
        held.save({"weights": torch.zeros(numbers)})
    assert held.load() == {"epoch": 1}


def test_a_full_disk_that_torch_hides_is_told(held, monkeypatch):
    """torch's writer may raise a RuntimeError of its own; with less than a MiB free the disk is what is wrong."""

    def hidden(state, file):
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", hidden)
    with pytest.raises(RuntimeError, match="unexpected pos") as other:
        held.save({})
    assert not isinstance(other.value, CheckpointError)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(CheckpointError, match=r"no space left .*0\.0 MiB free"):
        held.save({})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_keeps_the_last_state(small_disk):
    """The third state of 1.5 MiB does not fit beside two others: told, both are whole; after room is made it is saved."""
    state = {"weights": torch.arange(400_000.0)}
    with Checkpoint(small_disk, "train", FINGERPRINT) as held:
        for epoch in (1, 2):
            held.save({"epoch": epoch, **state})
        for _ in range(2):
            with pytest.raises(CheckpointError, match=r"no space left to write .*state\.pt: .* MiB free; make room"):
                held.save({"epoch": 3, **state})
            assert held.load()["epoch"] == 2
        subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
        held.save({"epoch": 3, **state})
        assert held.load()["epoch"] == 3


def test_space_is_asked_for_beforehand(tmp_path, monkeypatch):
    """100 MiB of 50: the message has both figures; 50 of 50 are enough."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 50 * 2**20))
    need_space(tmp_path, 50 * 2**20, "stage train")
    with pytest.raises(CheckpointError, match=r"stage train needs 100 MiB under .*, but only 50 MiB are free"):
        need_space(tmp_path, 100 * 2**20, "stage train")


def test_the_same_weights_are_the_same_bytes(tmp_path):
    """Whenever and in whatever memory format they are written: DVC hashes the file. Other weights differ."""
    save_weights(tmp_path / "a.safetensors", network())
    save_weights(tmp_path / "b.safetensors", network().to(memory_format=torch.contiguous_format))
    save_weights(tmp_path / "c.safetensors", network(1))
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_weights_come_back(tmp_path):
    """Parameters and buffers, bit for bit, into a network with others; the folder is made."""
    path, source, target = tmp_path / "new" / "w.safetensors", network(), network(1)
    source(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)))  # moves the running statistics
    save_weights(path, source)
    load_weights(path, target)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())
    assert os.listdir(path.parent) == ["w.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_truncated_weights_name_the_file(tmp_path, keep):
    """Empty, without its header's end, half of it, all but the end."""
    path = tmp_path / "w.safetensors"
    save_weights(path, network())
    cut(path, keep)
    with pytest.raises(CheckpointError, match=rf"the weights {path} cannot be read"):
        load_weights(path, network())


def test_missing_and_foreign_weights_name_the_file(tmp_path):
    """No file, and one of another network."""
    path = tmp_path / "w.safetensors"
    with pytest.raises(CheckpointError, match=rf"the weights {path} cannot be read"):
        load_weights(path, network())
    save_weights(path, nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=rf"the weights {path} cannot be read"):
        load_weights(path, network())


def test_weights_on_a_full_disk_keep_the_old_ones(tmp_path):
    """As for checkpoints: told, and the file before is still whole."""
    path = tmp_path / "w.safetensors"
    save_weights(path, network())
    before = path.read_bytes()
    (tmp_path / "w.new").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"no space left to write .*w\.safetensors"):
        save_weights(path, network(1))
    assert path.read_bytes() == before


def test_another_error_stays_what_it_is(tmp_path):
    """A folder that cannot be written is not called full."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as error:
        save_weights(tmp_path / "file" / "w.safetensors", network())
    assert not isinstance(error.value, checkpoint.CheckpointError) and error.value.errno != errno.ENOSPC

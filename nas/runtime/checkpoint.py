"""Checkpoints of a stage: one file, replaced atomically, in a folder that one process locks at a time.

A folder is named after the stage and its fingerprint (command, dependencies, parameters), so a
change of parameters never resumes a stale state. Only tensors and plain values are stored
(`weights_only`). The previous state is kept and used, with a message, if the last one is damaged.
Folders of finished stages are removed when the next stage starts.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

STATE = "state.pt"
PREVIOUS = ".previous"  # suffix of the previous state
FINISHED = "finished"  # marks the folder of a finished stage


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message names it and the remedy."""


class Checkpoint:
    """The checkpoint folder of one run of a stage, locked while open.

    Use as a context manager: `with Checkpoint(root, "train", fingerprint) as checkpoint`.

    Raises:
        CheckpointError: on entering, if another process holds the folder.
    """

    def __init__(self, root: Path, stage: str, fingerprint: str) -> None:
        self.folder = root / ".checkpoints" / f"{stage}-{fingerprint[:16]}"

    def __enter__(self) -> "Checkpoint":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise CheckpointError(f"another process is running this stage with the same parameters: it holds {self.folder}/lock") from None
        if (self.folder / FINISHED).exists():  # run again by `dvc repro --force`
            for file in self.folder.iterdir():
                if file.name != "lock":
                    file.unlink()
        for marker in self.folder.parent.glob(f"*/{FINISHED}"):  # DVC has their outputs by now
            if marker.parent != self.folder:
                shutil.rmtree(marker.parent, ignore_errors=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            (self.folder / FINISHED).touch()
        self._lock.close()

    def save(self, state: dict[str, Any], name: str = STATE) -> None:
        """Replace the named state and keep the previous one; after a crash at any point one of them is complete.

        On return the state, its name and the previous state are on the disk, safe from a power failure.

        Raises:
            CheckpointError: if the disk is full.
        """
        path, new = self.folder / name, self.folder / f"{name}.new"
        try:
            with open(new, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError on a full disk
            raise _write_error(error, path, new) from error
        if path.exists():
            os.replace(path, self.folder / f"{name}{PREVIOUS}")
        os.replace(new, path)
        _sync(self.folder)

    def load(self, name: str = STATE) -> dict[str, Any] | None:
        """The named state, on the CPU; None if there is none.

        If the last one is damaged, or missing after a crash, the previous one replaces it and a message says so.

        Raises:
            CheckpointError: if no state can be read.
        """
        path, previous = self.folder / name, self.folder / f"{name}{PREVIOUS}"
        if not path.is_file() and not previous.is_file():
            return None
        try:
            return _read(path)
        except Exception as error:  # torch raises many kinds for a damaged file
            problem = f"({path.stat().st_size} bytes) is damaged ({error})" if path.is_file() else "is missing"
            try:
                state = _read(previous)
            except Exception:
                raise CheckpointError(f"the checkpoint {path} {problem}; delete {self.folder} to start this stage again") from error
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(previous.stat().st_mtime))
        print(f"the checkpoint {path} {problem}: resuming from the previous one, written {written}", flush=True)
        os.replace(previous, path)  # so that the next save keeps this state, not the damaged one
        return state


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def _sync(folder: Path) -> None:
    """Write the folder's entries, as changed by a rename, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def need_space(folder: Path, bytes_needed: int, what: str) -> None:
    """Check that the disk has space for the results of long work.

    Raises:
        CheckpointError: if it has less than the bytes needed.
    """
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise CheckpointError(
            f"{what} needs {bytes_needed / 2**20:.0f} MiB under {folder.resolve()}, but only {free / 2**20:.0f} MiB are free"
        )


def save_weights(path: Path, module: torch.nn.Module) -> None:
    """Write the module's parameters and buffers as safetensors; equal weights give equal bytes.

    Raises:
        CheckpointError: if the disk is full.
    """
    data = save({name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()})
    new = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _write_error(error, path, new) from error
    os.replace(new, path)
    _sync(path.parent)


def load_weights(path: Path, module: torch.nn.Module) -> None:
    """Load weights of `save_weights` into the module.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"the weights {path} cannot be read ({error}); rerun the stage that writes them: dvc repro -f") from error


def _write_error(error: Exception, path: Path, new: Path) -> Exception:
    """The exception for a new file that could not be written: a `CheckpointError` if the disk is full. Removes the file."""
    free = shutil.disk_usage(path.parent).free  # before the partial file is removed
    with contextlib.suppress(NotADirectoryError):
        new.unlink(missing_ok=True)
    full = {errno.ENOSPC, errno.EDQUOT} & {getattr(e, "errno", None) for e in (error, error.__context__)}
    if not full and free >= 2**20:
        return error
    return CheckpointError(
        f"no space left to write {path}: {free / 2**20:.1f} MiB free; make room and run again, the last checkpoint is kept"
    )

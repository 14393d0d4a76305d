"""Save and resume a stage: one file, replaced atomically, in a folder that one process holds at a time.

A folder is named after the stage and its fingerprint (command, dependencies, parameters), so a
change of parameters never resumes stale state. Nothing but tensors and plain values is stored
(`weights_only`). The state before the last one is kept: it is used, and said, where the last one turns out
to be damaged. Folders of finished stages go when the next stage starts.
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
PREVIOUS = ".previous"  # at the end of the name of the state before
FINISHED = "finished"  # marks a folder whose stage came to its end


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says which and what to do."""


class Checkpoint:
    """The checkpoint folder of one run of a stage, locked while it is open.

    Use it as a context manager: `with Checkpoint(root, "train", fingerprint) as checkpoint`.

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
        if (self.folder / FINISHED).exists():  # asked for again: `dvc repro --force`
            for done in self.folder.iterdir():
                if done.name != "lock":
                    done.unlink()
        for old in self.folder.parent.glob(f"*/{FINISHED}"):  # DVC has the outputs of those by now
            if old.parent != self.folder:
                shutil.rmtree(old.parent, ignore_errors=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            (self.folder / FINISHED).touch()
        self._lock.close()

    def save(self, state: dict[str, Any], name: str = STATE) -> None:
        """Replace the named state and keep the one before; a reader finds one of them whole, whatever happens meanwhile.

        When this returns, power may fail: the state, its name and the one before are on the disk.

        Raises:
            CheckpointError: if the disk is full.
        """
        path, fresh = self.folder / name, self.folder / f"{name}.new"
        try:
            with open(fresh, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
            raise _unwritten(error, path, fresh) from error
        if path.exists():
            os.replace(path, self.folder / f"{name}{PREVIOUS}")
        os.replace(fresh, path)
        _sync(self.folder)

    def load(self, name: str = STATE) -> dict[str, Any] | None:
        """The named state, on the CPU; None where there is none yet.

        Where the last one is damaged, or a crash left none under its name, the one before takes its place and a line says so.

        Raises:
            CheckpointError: if no state can be read.
        """
        path, previous = self.folder / name, self.folder / f"{name}{PREVIOUS}"
        if not path.is_file() and not previous.is_file():
            return None
        try:
            return _read(path)
        except Exception as error:  # torch raises many kinds for a damaged file
            wrong = f"({path.stat().st_size} bytes) is damaged ({error})" if path.is_file() else "was not in its place yet"
            try:
                found = _read(previous)
            except Exception:
                raise CheckpointError(f"the checkpoint {path} {wrong}; delete {self.folder} to start this stage anew") from error
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(previous.stat().st_mtime))
        print(f"the checkpoint {path} {wrong}: going on from the one before it, written {written}", flush=True)
        os.replace(previous, path)  # so that the next one saved keeps this one, not the damaged one
        return found


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def _sync(folder: Path) -> None:
    """Have names of files, as changed by a rename, on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def need_space(folder: Path, bytes_needed: int, what: str) -> None:
    """Refuse to start long work whose results would not fit.

    Raises:
        CheckpointError: if the disk has less room than the bytes needed.
    """
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise CheckpointError(
            f"{what} needs {bytes_needed / 2**20:.0f} MiB under {folder.resolve()}, but only {free / 2**20:.0f} MiB are free"
        )


def save_weights(path: Path, module: torch.nn.Module) -> None:
    """The module's parameters and buffers as safetensors: the same weights give the same bytes.

    Raises:
        CheckpointError: if the disk is full.
    """
    data = save({name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()})
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(fresh, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritten(error, path, fresh) from error
    os.replace(fresh, path)
    _sync(path.parent)


def load_weights(path: Path, module: torch.nn.Module) -> None:
    """Read what `save_weights` wrote, in place.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network.
    """
    try:
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"the weights {path} cannot be read ({error}); run the stage that writes them again: dvc repro -f") from error


def _unwritten(error: Exception, path: Path, fresh: Path) -> Exception:
    """What to raise where a fresh file could not be written, which is removed: a `CheckpointError` if the disk is full."""
    free = shutil.disk_usage(path.parent).free  # before the half-written file gives its room back
    with contextlib.suppress(NotADirectoryError):
        fresh.unlink(missing_ok=True)
    full = {errno.ENOSPC, errno.EDQUOT} & {getattr(e, "errno", None) for e in (error, error.__context__)}
    if not full and free >= 2**20:
        return error
    return CheckpointError(
        f"no space left to write {path}: {free / 2**20:.1f} MiB free; make room and run again, the last checkpoint is kept"
    )

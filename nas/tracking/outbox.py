"""Notes of runs that MLflow has not received completely: one JSON file per run, delivered later.

A note says which run it is about and what the run still lacks. `save` replaces the file atomically, so a crash leaves the
note before or after. The folder is locked (flock) while the process that writes or delivers it lives. Artifacts are copied
beside the note, because the next run of the stage replaces them.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTE, LOCK, FILES = "note.json", "lock", "files"


class NoteError(ValueError):
    """A note is damaged."""


@dataclass
class Note:
    """What MLflow lacks of one run. The folder appears with the first `save` and disappears with `clear`."""

    folder: Path
    store: str  # hash of the store's address
    spec: dict[str, Any]  # what the run is made from: `delivery.RunSpec`
    ids: dict[str, Any]  # `delivery.RunIds`; empty strings until MLflow has the run
    pending: dict[str, list] = field(default_factory=dict)  # by kind, see `delivery.WRITERS`
    saved: bool = False  # on the disk

    def __post_init__(self) -> None:
        self._lock = None

    @classmethod
    def take(cls, folder: Path) -> "Note | None":
        """The note of an ended process; None if its process still runs, or if it is delivered.

        Raises:
            NoteError: if it can't be read.
        """
        try:
            lock = open(folder / LOCK, "a")  # noqa: SIM115
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = json.loads((folder / NOTE).read_bytes())
            note = cls(folder, **{key: facts[key] for key in ("store", "spec", "ids", "pending")}, saved=True)
        except (BlockingIOError, FileNotFoundError):
            lock.close()
            return None
        except (ValueError, KeyError, TypeError) as error:
            lock.close()
            raise NoteError(f"{folder / NOTE} is damaged ({error!r}); repair it, or delete {folder} to drop it") from None
        note._lock = lock
        return note

    def save(self) -> None:
        """Write the note and copies of its files.

        Raises:
            OSError: if the disk is full; the note before stays.
        """
        if self._lock is None:
            self.folder.mkdir(parents=True)
            self._lock = open(self.folder / LOCK, "a")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        fresh = self.folder / f"{NOTE}.new"
        try:
            for item in (item for items in self.pending.values() for item in items if isinstance(item, dict) and "path" in item):
                item["path"] = str(self._copy(Path(item["path"])))
            with open(fresh, "w") as file:
                json.dump({f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("folder", "saved")}, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise OSError(error.errno, f"{error.strerror}; make room and run again", str(self.folder / NOTE)) from error
        os.replace(fresh, self.folder / NOTE)
        self.saved = True

    def clear(self) -> None:
        """Everything is delivered."""
        if self._lock is not None:
            shutil.rmtree(self.folder)
            self.close()
        self.pending, self.saved = {}, False

    def close(self) -> None:
        """Leave the note to another process."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _copy(self, path: Path) -> Path:
        files = self.folder / FILES
        if path.is_relative_to(files):
            return path
        target = files / str(len(list(files.glob("*")))) / path.name
        target.parent.mkdir(parents=True)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
        return target

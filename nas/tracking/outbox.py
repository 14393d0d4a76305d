"""What can't be delivered now: records as JSON lines in a folder, to be delivered later, in order.

A line is on the disk when `append` returns; one that a crash cut off is dropped. The folder belongs to the process
that writes it for as long as that lives (flock); then whoever delivers may take it. Files that a record names by
`path` are copied beside the lines, because what made them will replace them.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LINES = "records.jsonl"  # the first line is the heading
FILES = "files"


class JournalError(ValueError):
    """A journal holds something else than its lines."""


class Journal:
    """Records that wait. The folder appears with the first of them and goes with the last.

    Args:
        folder: of this journal alone.
        heading: what the records are about, e.g. the run that they belong to; JSON.
    """

    def __init__(self, folder: Path, heading: Mapping[str, Any]) -> None:
        self.folder, self.heading = folder, heading
        self.records: list[dict[str, Any]] = []  # that wait
        self._file = None
        self._copies = 0

    @classmethod
    def take(cls, folder: Path) -> "Journal | None":
        """The journal that an ended process left; None where its process goes on, or where it has been delivered.

        Raises:
            JournalError: if a line can't be read.
        """
        try:
            file = open(folder / LINES, "r+b", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        whole, newline, _ = file.read().rpartition(b"\n")  # what comes after was cut off
        if not os.fstat(file.fileno()).st_nlink or not newline:
            file.close()
            return None
        file.truncate(len(whole + newline))
        file.seek(0, os.SEEK_END)
        try:
            heading, *records = [json.loads(line) for line in whole.split(b"\n")]
        except ValueError as error:
            file.close()
            raise JournalError(
                f"{folder / LINES} has a line that is not JSON ({error}); mend it, or delete {folder} to give it up"
            ) from None
        journal = cls(folder, heading)
        journal.records, journal._file = records, file
        return journal

    def append(self, record: Mapping[str, Any]) -> None:
        """Keep a record; a file or folder that it names by `path` is copied.

        Raises:
            OSError: if the disk is full.
        """
        if self._file is None:
            self._open()
        record = dict(record)
        if "path" in record:
            record["path"] = str(self._copy(Path(record["path"])))
        self._write(record)
        self.records.append(record)

    def clear(self) -> None:
        """All records are delivered."""
        if self._file is not None:
            shutil.rmtree(self.folder)
            self.close()
        self.records = []

    def close(self) -> None:
        """Leave what waits to whoever delivers it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self.folder.mkdir(parents=True)
        self._file = open(self.folder / LINES, "a+b", buffering=0)  # noqa: SIM115
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._write(self.heading)
        except OSError:
            self.clear()
            raise

    def _write(self, line: Mapping[str, Any]) -> None:
        """All of a line or nothing."""
        end, data = self._file.seek(0, os.SEEK_END), json.dumps(line).encode() + b"\n"
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            raise OSError(error.errno, f"{error.strerror}; make room and run again", str(self.folder / LINES)) from error

    def _copy(self, path: Path) -> Path:
        self._copies += 1
        to = self.folder / FILES / str(self._copies) / path.name
        if path.is_dir():
            shutil.copytree(path, to)
        else:
            to.parent.mkdir(parents=True)
            shutil.copyfile(path, to)
        return to

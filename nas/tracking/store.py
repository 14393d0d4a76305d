"""The MLflow store: its address, whether it answers, and what counts as away. MLflow itself is imported on first use (2.5 s)."""

import contextlib
import hashlib
import logging
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.runtime import params, processes

if TYPE_CHECKING:
    from mlflow import MlflowClient

OUTBOX = ".checkpoints/mlflow"  # folder of the notes, below the project's root
REACHED = "reached"  # file there: hashes of the stores that answered once
SQLITE = "sqlite:///"
LOCK_TIMEOUT = 5.0  # seconds after which a locked database counts as away
# MLflow retries for four minutes by default; the outbox makes that needless. NullPool opens a connection per transaction, so that
# a replaced database file is noticed and a copied one is complete.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}


class TrackingConfig(params.Section):
    """Section `tracking` of params.yaml; no stage depends on it, so a change reruns nothing."""

    uri: str  # sqlite:///mlflow.db (relative: from the project's root), http://host:port, ...
    experiment: str
    system_metrics: bool  # CPU, memory, disk, network and GPU, recorded by MLflow every 10 s


class TrackingError(RuntimeError):
    """The MLflow store can't be used."""


@dataclass(frozen=True)
class Store:
    """An address that may or may not answer."""

    uri: str
    source: str  # where the address is set, for messages

    @property
    def file(self) -> Path | None:
        """The SQLite database; None for a server."""
        return Path(self.uri.removeprefix(SQLITE).partition("?")[0]) if self.uri.startswith(SQLITE) else None

    @property
    def hash(self) -> str:
        """Identifies the store; the address itself may hold a password."""
        return hashlib.sha256(self.uri.encode()).hexdigest()

    def reach(self, create: bool = False) -> None:
        """Fail at once if the store is away; MLflow would retry for minutes, or write to a file that was deleted.

        Args:
            create: make a missing SQLite file.

        Raises:
            OSError, sqlite3.Error: if it is away or locked.
        """
        if self.file is not None and create:
            with lock(), contextlib.closing(sqlite3.connect(self.file, timeout=LOCK_TIMEOUT)) as database:
                database.execute("PRAGMA journal_mode=WAL")  # stays set; readers and one writer do not block each other
        self.check()
        if self.uri.startswith(("http://", "https://")):
            with contextlib.suppress(urllib.error.HTTPError):  # an error page is an answer too
                urllib.request.urlopen(self.uri, timeout=10).close()

    def check(self) -> None:
        """`reach` before every write: costs nothing for a server, a lock attempt for SQLite."""
        if self.file is None:
            return
        if not self.file.exists():
            raise FileNotFoundError(f"{self.file} is missing")
        with contextlib.closing(sqlite3.connect(self.file, timeout=LOCK_TIMEOUT)) as database:
            database.execute("BEGIN IMMEDIATE")

    def was_reached(self) -> bool:
        """Whether the store answered this project before."""
        file = outbox() / REACHED
        return file.is_file() and self.hash in file.read_text().split()

    def note_reached(self) -> None:
        if not self.was_reached():
            outbox().mkdir(parents=True, exist_ok=True)
            with open(outbox() / REACHED, "a") as file:
                file.write(self.hash + "\n")


@contextlib.contextmanager
def use(config: TrackingConfig) -> Iterator[Store]:
    """Point MLflow to the store, whether it answers or not. MLFLOW_TRACKING_URI overrides the config."""
    override = os.environ.get("MLFLOW_TRACKING_URI")
    uri = _absolute(override or config.uri)
    source = f"MLFLOW_TRACKING_URI is {uri}" if override else f"params.yaml: tracking.uri is {config.uri!r} ({uri})"
    before = {key: os.environ.get(key) for key in ("MLFLOW_TRACKING_URI", *MLFLOW_DEFAULTS)}
    os.environ.update({key: value for key, value in MLFLOW_DEFAULTS.items() if before[key] is None})
    try:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # its traceback; the outbox prints one line
        mlflow.set_tracking_uri(uri)
        yield Store(uri, source)
    finally:
        for key, value in before.items():  # set_tracking_uri writes the variable too
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


def client() -> "MlflowClient":
    import mlflow

    with lock():  # the first client creates the tables
        return mlflow.MlflowClient()


def lock():
    """Between processes, not reentrant: MLflow's migration of a new database breaks if two start it, and a pipeline has one parent run."""
    import filelock

    return filelock.FileLock(processes.project_root() / ".mlflow.lock")


def is_away(error: Exception) -> bool:
    """True if the store is at fault, False for a value that MLflow refuses."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return error.error_code != "INVALID_PARAMETER_VALUE"
    return isinstance(error, OSError | sqlite3.Error | SQLAlchemyError)


def outbox() -> Path:
    """Folder of the notes for MLflow."""
    return processes.project_root() / OUTBOX


def _absolute(uri: str) -> str:
    path = uri.removeprefix(SQLITE)
    return f"{SQLITE}{processes.project_root() / path}" if uri.startswith(SQLITE) and path else uri

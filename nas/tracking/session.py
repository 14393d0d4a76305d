"""Stages as MLflow runs, under one parent run for each run of the pipeline. The only module that imports mlflow.

The stages of one `dvc` command (or one Prefect flow run, env NAS_PIPELINE) share a parent; `close_pipeline`
ends it. A stage that was interrupted and starts again with the same DVC fingerprint goes on in the MLflow run
it had, and the new pipeline takes over that run's parent; steps that the run has already are not logged twice.
Nothing is written by ranks other than 0.

MLflow may be away for a while: its database locked or moved, its server down. The stage goes on. What it logs is
kept in a journal below .checkpoints/mlflow and delivered, each record once and with its own time, as soon as MLflow
answers: while the stage runs, when the next stage starts, or by

    python -m nas.tracking.session deliver

A store that this project has never reached is an error at the first stage, since its address may be wrong; one that
was reached before is waited for. Where a database was deleted, the next stage makes a new one.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import signal
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from nas.runtime import params, processes
from nas.tracking import provenance
from nas.tracking.outbox import Journal, JournalError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import Run

PIPELINE, PROCESS = "nas.pipeline", "nas.process"  # tags: the key that stages share; whose life a run depends on
OPENING = "nas.opening"  # tag: names the start of a stage, so that none gets two runs
PARENT = "mlflow.parentRunId"
WAITING = ".checkpoints/mlflow"  # journals, below the project's root
REACHED = "reached"  # file there: hashes of the stores that were reached
FRONT = ("top1", "latency_ms", "mflops", "parameters")  # figures of a network, alike in every method
MOST_PARAMS = 100  # MLflow takes so many in one call
SQLITE = "sqlite:///"
TOGETHER = 5.0  # seconds within which several SIGTERM mean one
LOCKED = 5.0  # seconds after which a locked database counts as away
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0  # seconds between two tries to deliver; each pause is twice the one before
# MLflow's own: trying for four minutes while the GPUs wait is what the journal is for; and a connection to SQLite for each
# transaction, so that a file that was replaced is noticed and one that is copied is whole.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool"}


class Settings(params.Section):
    """Section `tracking` of params.yaml; no stage depends on it, so a change reruns nothing."""

    uri: str  # sqlite:///mlflow.db (relative: from the project's root), http://host:port, ...
    experiment: str
    system_metrics: bool  # MLflow's own: CPU, memory, disk, network, GPU, every 10 s


class TrackingError(RuntimeError):
    """The MLflow store can't be used."""


class Terminated(SystemExit):
    """SIGTERM arrived."""


@dataclass(frozen=True)
class Group:
    """Runs that are compared with each other: they share a parent whenever they run."""

    name: str  # of the parent run
    key: str  # the same for all of them


@dataclass(frozen=True)
class Pipeline:
    """One run of the pipeline."""

    key: str  # the same for all its stages
    owner: str  # token of the process that it ends with; "" if nobody knows

    name: str = "pipeline"  # of the parent run

    @classmethod
    def current(cls, group: Group | None = None) -> "Pipeline":
        """The group's; else from the environment: the flow's (NAS_PIPELINE), that of the `dvc` above this process, this process."""
        if group is not None:
            return cls(f"{group.name}-{group.key}", cls.current().owner, group.name)
        if key := os.environ.get("NAS_PIPELINE"):
            return cls(key, os.environ.get("NAS_PIPELINE_OWNER", ""))
        owner = processes.dvc_process() or processes.process_token()
        experiment = os.environ.get("DVC_EXP_NAME")  # one worker of DVC's queue runs many experiments
        return cls(f"{experiment}@{owner}" if experiment else owner, owner)

    @property
    def ends_with_stage(self) -> bool:
        """True for a stage that is run by hand."""
        return self.key == processes.process_token()


@dataclass(frozen=True)
class Opening:
    """What a stage's run is made from, now or later."""

    key: str  # names this start of the stage for good
    title: str
    tags: dict[str, str]
    context: dict[str, str]  # tags that MLflow adds: user, source
    experiment: str
    pipeline: Pipeline
    shares: bool  # final figures and parameters are the parent's too
    process: str  # token
    start_ms: int  # since 1970

    @classmethod
    def here(cls, title: str, tags: dict[str, str], experiment: str, pipeline: Pipeline, shares: bool) -> "Opening":
        """Of a stage that starts now, in this process."""
        from mlflow.tracking.context.registry import resolve_tags

        key, process = uuid.uuid4().hex, processes.process_token()
        return cls(key, title, tags, resolve_tags(), experiment, pipeline, shares, process, _now_ms())


@dataclass(frozen=True)
class Place:
    """Where in MLflow a stage's records belong."""

    run: str = ""
    parent: str = ""
    resumed: bool = False
    earlier: float = 0.0  # seconds that the stage ran before it was interrupted


NOWHERE = Place()


class _Away(Exception):
    """MLflow does not answer, or other records wait for it already."""


class StageRun:
    """What a stage writes to: its MLflow run, or its journal where MLflow does not answer."""

    def __init__(self, link: "_Link", inputs: Mapping[str, str]):
        self._link = link
        self.inputs = inputs  # path -> md5 of the stage's dependencies
        self._closes = False

    @property
    def id(self) -> str:
        """The run's; "" as long as MLflow has not answered."""
        return self._link.place.run

    @property
    def parent_id(self) -> str:
        """The parent run's; "" as long as MLflow has not answered."""
        return self._link.place.parent

    @property
    def resumed(self) -> bool:
        """True: the run holds what an interrupted one wrote."""
        return self._link.place.resumed

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of one step (an epoch, a generation); when this returns they are on disk."""
        self._link.write("steps", points=_points(metrics, step))

    def summary(self, metrics: Mapping[str, float], stage: str) -> None:
        """Final figures, as `<stage>/<key>`, on this run and, if it shares them, on the pipeline's, where pipelines are compared.

        A figure that this run has as a curve ends with its final value already; one more point would spoil the curve.
        """
        points = _points({f"{stage}/{k}": v for k, v in metrics.items()}, 0)
        self._link.write("figures", points=points)
        if self._link.opening.shares:
            self._link.write("shared_figures", points=points)

    def front(self, networks: Iterable[Mapping[str, Any]]) -> None:
        """Networks as curves `front/<figure>` of FRONT, a step a network, as given: charts show the fronts of several runs together.

        Args:
            networks: figures of each; what FRONT does not name is left out.
        """
        for step, network in enumerate(networks):
            self.log({f"front/{name}": network[name] for name in FRONT if name in network}, step)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or a folder with all that is in it."""
        self._link.write("artifact", path=str(path), folder=folder)

    def table(self, frame: "pd.DataFrame", name: str) -> None:
        """A table, shown by MLflow's UI; `name` ends in .json. Written again, it replaces the earlier one."""
        self._link.write("table", text=frame.to_json(orient="split", index=False), name=name)

    def dataset(self, path: str, context: str, digest: str | None = None, **facts: Any) -> None:
        """Data that the stage uses, with the md5 that DVC knows it by.

        Args:
            path: as in dvc.yaml.
            context: what for, e.g. "training".
            digest: only for data that the stage doesn't depend on.
            facts: shown beside it, e.g. images=6000.

        Raises:
            ValueError: without a digest, if the stage doesn't depend on the path.
        """
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset

        digest = digest if digest is not None else self.inputs.get(path)
        if digest is None:
            raise ValueError(f"{path} is not among the stage's deps in dvc.yaml: {sorted(self.inputs)}")
        with warnings.catch_warnings(action="ignore"):  # "can be interpreted in multiple ways: local, local"
            source = resolve_dataset_source(str(Path(path).absolute()))
        tags = {key: str(value) for key, value in facts.items()} | {"mlflow.data.context": context}
        self._link.write("dataset", dataset=MetaDataset(source, name=path, digest=digest).to_dict(), tags=tags)

    def model(
        self,
        name: str,
        module: "torch.nn.Module",
        example: "np.ndarray",
        registered_name: str,
        alias: str,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Log a network as pt2 (torch.export, no pickle), register it, and move the alias to it; where MLflow is away, say so.

        Args:
            name: of the logged model within the run.
            module: in eval mode; called with one tensor.
            example: (batch, channels, side, side); a batch of 1 would fix the batch size in the exported network.
            registered_name: in the registry; the model is found again as `models:/<registered_name>@<alias>`.
            metrics: linked to the model.
            tags: put on the registered version.

        Returns:
            The registered version; "" if MLflow does not answer.

        Raises:
            ValueError: for a module in training mode and for a batch of one.
        """
        if module.training:
            raise ValueError(f"model {name!r} is in training mode; call .eval() first, its batch norm would depend on the batch")
        if len(example) < 2:
            raise ValueError(f"model {name!r}: an example batch of {len(example)}; at least 2 are needed to leave the batch size free")
        record = {
            "name": name,
            "registered_name": registered_name,
            "alias": alias,
            "metrics": {k: float(v) for k, v in (metrics or {}).items()},
            "tags": dict(tags or {}),
        }
        try:
            return self._link.now(_write_module, record | {"module": module, "example": example})
        except _Away:  # a program that waited in a file could only be read by unpickling it
            print(f"{name} is not in MLflow's registry, which does not answer; later `dvc repro --force export` puts it there", flush=True)
            return ""

    def tag(self, **tags: str) -> None:
        self._link.write("tags", tags=tags)

    def close_pipeline(self) -> None:
        """This is the pipeline's last stage: its parent run ends with it."""
        self._closes = True


class SilentRun(StageRun):
    """The run of the ranks other than 0: nothing is written."""

    id = parent_id = ""
    resumed = False

    def __init__(self):
        super().__init__(None, {})

    def log(self, *args, **kwargs) -> None: ...

    summary = front = artifact = table = dataset = tag = log

    def model(self, *args, **kwargs) -> str:
        return ""


@contextlib.contextmanager
def stage_run(
    stage: str,
    parameters: Mapping[str, Any],
    strategy: str | None = None,
    settings: Settings | None = None,
    title: str | None = None,
    group: Group | None = None,
    shares: bool = True,
) -> Iterator[StageRun]:
    """Run a stage as an MLflow run: FINISHED at the end, FAILED by an exception, KILLED by Ctrl-C or SIGTERM.

    Run by DVC, the process also ends when DVC is killed. SIGTERM unwinds the stage like Ctrl-C does.

    Args:
        stage: its address in dvc.yaml.
        parameters: what the stage reads from params.yaml, nested (sections or mappings); logged as `train.epochs`.
        strategy: tag nas.strategy, to compare pipelines by.
        settings: section `tracking`; read from params.yaml if None.
        title: the run's name; the stage's if None.
        group: what the run is compared within; None: it belongs to the run of the pipeline.
        shares: parameters and final figures are put on the parent too; not for one of many alike.

    Raises:
        TrackingError: if the store can't be used and this project never reached it; names tracking.uri.
        RuntimeError: outside git or DVC.
    """
    if "DVC_STAGE" in os.environ:
        processes.die_with_parent()
    if int(os.environ.get("RANK", "0")) != 0:
        yield SilentRun()
        return
    settings = settings or params.read("tracking", Settings)
    opening = Opening.here(title or stage, _tags(stage, strategy), settings.experiment, Pipeline.current(group), shares)
    inputs = provenance.inputs(stage)
    with _store(settings) as store:
        link = _open(store, opening, settings.system_metrics)
        yield from _tracked(link, StageRun(link, inputs), _flat(parameters))


def _tracked(link: "_Link", run: StageRun, parameters: dict[str, str]) -> Iterator[StageRun]:
    began, status = time.monotonic(), "FAILED"
    with _sigterm_unwinds():  # not earlier: a bare `except` somewhere in the imports would swallow it
        try:
            link.write("params", params=parameters)
            if link.opening.shares:
                link.write("shared_params", params=parameters)
            yield run
            status = "FINISHED"
        except BaseException as error:
            status = _status(error)
            raise
        finally:
            link.end(status, time.monotonic() - began, run._closes)


def _open(store: "_Address", opening: "Opening", system_metrics: bool) -> "_Link":
    """The stage's run, in MLflow or, if it was there before and is not now, in a journal.

    Raises:
        TrackingError: if this project never reached the store.
    """
    link = _Link(store, opening, Journal(_waiting() / f"{opening.start_ms:013d}-{opening.key}", {}), system_metrics=system_metrics)
    try:
        if store.file is not None and not store.file.exists() and store.was_reached():
            print(f"{store.file} is not there any more: a new one is made", file=sys.stderr, flush=True)
        store.reach(make=True)
        deliver(store)
        link.begin()
        link.watch()
    except Exception as error:  # many kinds: sqlite3, sqlalchemy, urllib, mlflow
        if not (_is_away(error) and store.was_reached()):
            raise TrackingError(f"can't use the MLflow store: {store.named}: {error}") from error
        link.away(error)
    else:
        store.note_reached()
    return link


class _Link:
    """MLflow for one stage. What it can't take now waits in the journal: then all that follows waits too, for its turn."""

    def __init__(self, store: "_Address", opening: Opening, journal: Journal, place: Place = NOWHERE, system_metrics: bool = False):
        self.store, self.opening, self.place = store, opening, place
        self._journal = journal
        self._pause, self._next_try = FIRST_PAUSE, -math.inf  # seconds; by time.monotonic
        self._told = False
        self._system_metrics, self._val = system_metrics, None
        self._heading()

    @classmethod
    def left(cls, store: "_Address", journal: Journal) -> "_Link":
        """Of a stage whose process has ended."""
        try:
            found = dict(journal.heading["opening"])
            opening = Opening(**found | {"pipeline": Pipeline(**found["pipeline"])})
            return cls(store, opening, journal, Place(**journal.heading["place"]))
        except (KeyError, TypeError) as error:
            raise JournalError(f"{journal.folder} does not say which run it is about ({error}); delete it to give it up") from None

    def begin(self, late: bool = False) -> None:
        """Make the run, or take up the one that was interrupted."""
        self.place = _begin(_client(), self.opening, late)
        self._heading()

    def watch(self) -> None:
        """Start MLflow's thread for system metrics; it ends where MLflow does not answer."""
        if not self._system_metrics:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self._val:
            self._val.finish()
        self._val = SystemMetricsMonitor(self.place.run, resume_logging=True)
        self._val.start()

    def write(self, do: str, **record: Any) -> None:
        """Write a record, now or later."""
        try:
            self.now(_WRITERS[do], record)
        except _Away:
            self.later(do, record)

    def now(self, writer: "Callable", record: Mapping[str, Any]) -> Any:
        """What the writer returns.

        Raises:
            _Away: if it has to wait.
        """
        if not self.place.run or self._journal.records:
            raise _Away
        try:
            self.store.ready()
            return writer(_client(), self.place, record, self.place.resumed)
        except Exception as error:
            if not _is_away(error):
                raise
            self.away(error)
            raise _Away from error

    def later(self, do: str, record: Mapping[str, Any]) -> None:
        """Put a record into the journal; if the pause is over, try to deliver all that waits.

        Raises:
            OSError: if the disk is full.
        """
        self._journal.append({"do": do, **record})
        if time.monotonic() >= self._next_try:
            self.deliver()

    def deliver(self, late: bool = False) -> bool:
        """Write all that waits, each record once; False if MLflow is away still."""
        count = len(self._journal.records)
        try:
            self.store.reach()
            client = _client()
            if not self.place.run or not _is_there(client, self.place.run):
                self.begin(late)
            while self._journal.records:
                self._deliver_one(client, self._journal.records[0])
                self._journal.records.pop(0)
        except Exception as error:
            if not _is_away(error):
                raise
            self.away(error)
            return False
        self._journal.clear()
        self._pause, self._told = FIRST_PAUSE, False
        self.watch()
        print(f"MLflow answers again: {count} records that waited are delivered", flush=True)
        return True

    def _deliver_one(self, client: "MlflowClient", record: Mapping[str, Any]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            _WRITERS[record["do"]](client, self.place, record, True)
        except MlflowException as error:
            if _is_away(error):
                raise
            refused = _waiting() / "refused.jsonl"
            with open(refused, "a") as file:
                file.write(json.dumps(self._journal.heading | {"record": record}) + "\n")
            print(f"MLflow will never take a record of {self.opening.title}: {error}; it is kept in {refused}", file=sys.stderr, flush=True)

    def away(self, error: Exception) -> None:
        """MLflow does not answer: said once, then tried less and less often."""
        if not self._told:
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            text = f"MLflow does not answer ({what}); {self.opening.title} goes on, what it logs waits in {self._journal.folder}"
            print(text, file=sys.stderr, flush=True)
            self._told = True
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def end(self, status: str, seconds: float, closes: bool) -> None:
        """The run ends, and its parent too unless other stages follow; a last try to deliver what waits."""
        if self._val:
            self._val.finish()
            self._system_metrics = False
        ends_parent = status != "FINISHED" or closes or self.opening.pipeline.ends_with_stage
        try:
            self.write("end", status=status, seconds=seconds, end_ms=_now_ms(), ends_parent=ends_parent)
        except OSError as error:  # the disk is full, and the stage's own error says more
            print(f"MLflow is not told how {self.opening.title} ended: {error}", file=sys.stderr, flush=True)
        if self._journal.records and (status != "FINISHED" or not self.deliver()):
            text = f"{len(self._journal.records)} records for MLflow wait in {self._journal.folder}: the next stage delivers them, or "
            print(f"{text}`python -m nas.tracking.session deliver`", file=sys.stderr, flush=True)
        self._journal.close()

    def _heading(self) -> None:
        """The journal's, from which another process can go on."""
        facts = {"opening": dataclasses.asdict(self.opening), "place": dataclasses.asdict(self.place)}
        self._journal.heading = {"store": self.store.hash, **facts}


def deliver(store: "_Address", anywhere: bool = False) -> int:
    """Write what ended stages could not; returns the number of journals that wait still.

    Args:
        anywhere: those meant for another store as well.
    """
    left = 0
    for folder in sorted(f for f in _waiting().glob("*-*") if f.is_dir()):
        journal = None
        try:
            if journal := Journal.take(folder):
                meant = anywhere or journal.heading.get("store") == store.hash
                left += not (meant and _Link.left(store, journal).deliver(late=True))
        except JournalError as error:
            print(error, file=sys.stderr, flush=True)
            left += 1
        finally:
            if journal:
                journal.close()
    return left


def _waiting() -> Path:
    return processes.project_root() / WAITING


def _client() -> "MlflowClient":
    import mlflow

    with _lock():  # the first one makes the tables
        return mlflow.MlflowClient()


def _is_away(error: Exception) -> bool:
    """Whether the store is at fault; False for what it will never take."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return error.error_code != "INVALID_PARAMETER_VALUE"
    return isinstance(error, OSError | sqlite3.Error | SQLAlchemyError)


def _is_there(client: "MlflowClient", run_id: str) -> bool:
    """Whether the store knows the run: not if the database was deleted meanwhile."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _begin(client: "MlflowClient", opening: Opening, late: bool) -> Place:
    """Make the stage's run and, if there is none, its parent; or take up the run that was interrupted.

    Args:
        late: the stage has begun before, when MLflow did not answer.
    """
    with _lock():  # two stages of one pipeline must not both make its parent
        experiment = _experiment(client, opening.experiment)
        if late and (made := client.search_runs([experiment], f"tags.`{OPENING}` = '{opening.key}'", max_results=1)):
            return Place(made[0].info.run_id, made[0].data.tags[PARENT])  # its answer was lost
        before = _interrupted(client, experiment, opening.tags)
        shared = {k: v for k, v in opening.tags.items() if opening.shares or k != "nas.strategy"}
        parent = _parent(client, experiment, opening.pipeline, before, shared, late)
        tags = opening.tags | {PARENT: parent, PROCESS: opening.process, OPENING: opening.key}
        if before:
            _reopen(client, before.info.run_id, tags)
            return Place(before.info.run_id, parent, True, before.data.metrics.get("seconds", 0.0))
        run = client.create_run(experiment, opening.start_ms, opening.context | tags, opening.title)
        return Place(run.info.run_id, parent)


def _experiment(client: "MlflowClient", name: str) -> str:
    """Its id; it is made if it is not there, beside an SQLite database with artifacts in the project."""
    import mlflow

    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    local = mlflow.get_tracking_uri().startswith(SQLITE)
    return client.create_experiment(name, artifact_location=(processes.project_root() / "mlartifacts").as_uri() if local else None)


_FIRST = time.time() - time.monotonic()  # so that within a process MLflow's times never go back, though the clock may


def _now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(1000 * (_FIRST + time.monotonic()))


Point = Sequence  # key, value, time in ms, step: as JSON keeps it


def _points(metrics: Mapping[str, float], step: int) -> list[Point]:
    now = _now_ms()
    return [[key, float(value), now, step] for key, value in metrics.items()]


def _log(client: "MlflowClient", run_id: str, points: Sequence[Point]) -> None:
    from mlflow.entities import Metric

    if points:
        client.log_batch(run_id, metrics=[Metric(*point) for point in points])


# Writers: (client, place, record, again) -> None. `again`: some of it may have been written before.


def _write_steps(client, place: Place, record: Mapping, again: bool) -> None:
    """Points of curves; a curve has one point a step."""

    def known(key: str, step: int) -> bool:
        return any(m.step == step for m in client.get_metric_history(place.run, key))

    _log(client, place.run, [p for p in record["points"] if not (again and known(p[0], p[3]))])


def _write_figures(client, place: Place, record: Mapping, again: bool) -> None:
    """Final figures, but for those that the run has."""
    curves = client.get_run(place.run).data.metrics
    _log(client, place.run, [p for p in record["points"] if p[0] not in curves])


def _write_shared_figures(client, place: Place, record: Mapping, again: bool) -> None:
    """The same for the parent, where a stage that runs anew changes them."""
    found = client.get_run(place.parent).data.metrics if again else {}
    _log(client, place.parent, [p for p in record["points"] if found.get(p[0]) != p[1]])


def _write_params(client, place: Place, record: Mapping, again: bool) -> None:
    _log_params(client, place.run, record["params"])


def _write_shared_params(client, place: Place, record: Mapping, again: bool) -> None:
    _log_params(client, place.parent, record["params"])


def _write_artifact(client, place: Place, record: Mapping, again: bool) -> None:
    write = client.log_artifacts if Path(record["path"]).is_dir() else client.log_artifact
    write(place.run, record["path"], record["folder"])


def _write_table(client, place: Place, record: Mapping, again: bool) -> None:
    import pandas as pd

    client.log_table(place.run, pd.DataFrame(**json.loads(record["text"])), record["name"])  # adds to one of that name, and tells the UI
    client.log_text(place.run, record["text"], record["name"])


def _write_dataset(client, place: Place, record: Mapping, again: bool) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    described = Dataset(**{k: record["dataset"].get(k) for k in ("name", "digest", "source_type", "source", "schema", "profile")})
    client.log_inputs(place.run, [DatasetInput(described, [InputTag(k, v) for k, v in record["tags"].items()])])


def _write_tags(client, place: Place, record: Mapping, again: bool) -> None:
    _set_tags(client, place.run, record["tags"])


def _write_end(client, place: Place, record: Mapping, again: bool) -> None:
    if client.get_run(place.run).info.status == "RUNNING":  # else it is what got lost that was written
        before = client.get_metric_history(place.run, "seconds")
        _log(client, place.run, [("seconds", place.earlier + record["seconds"], record["end_ms"], len(before))])
        client.set_terminated(place.run, record["status"], record["end_ms"])
    if record["ends_parent"] and client.get_run(place.parent).info.status == "RUNNING":
        client.set_terminated(place.parent, record["status"], record["end_ms"])


def _write_module(client, place: Place, record: Mapping, again: bool) -> str:
    """Log a network and register it; the version that it has. Those of one run have different names."""
    import mlflow.pytorch
    import torch
    from mlflow.models import Model, infer_signature

    module, example, registered = record["module"], record["example"], record["registered_name"]
    version, model_id = _registered(client, place.run, record["name"], registered) if again else ("", "")
    if not version:
        with torch.no_grad():
            output = module(torch.from_numpy(example)).numpy()
        with _environment(MLFLOW_EXPERIMENT_ID=client.get_run(place.run).info.experiment_id):  # else the model is put into "Default"
            info = Model.log(
                artifact_path=None,
                flavor=mlflow.pytorch,
                run_id=place.run,
                pytorch_model=module,
                name=record["name"],
                serialization_format="pt2",
                input_example=example,
                signature=infer_signature(example, output),
                registered_model_name=registered,
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            )
        version, model_id = str(info.registered_model_version), info.model_id
    have = {m.key for m in client.get_logged_model(model_id).metrics or ()} if again else set()
    for key, value in record["metrics"].items():
        if key not in have:
            client.log_metric(place.run, key, value, model_id=model_id)
    for key, value in record["tags"].items():
        client.set_model_version_tag(registered, version, key, value)
    client.set_registered_model_alias(registered, record["alias"], version)
    return version


def _registered(client: "MlflowClient", run_id: str, name: str, registered: str) -> tuple[str, str]:
    """Version and id of the model that the run has logged and registered; empty if it has not."""
    for found in client.search_model_versions(f"name = '{registered}' and run_id = '{run_id}'"):
        model_id = found.source.removeprefix("models:/")  # the version's own `model_id` stays empty
        if model_id != found.source and client.get_logged_model(model_id).name == name:
            return str(found.version), model_id
    return "", ""


_WRITERS = {
    "steps": _write_steps,
    "figures": _write_figures,
    "shared_figures": _write_shared_figures,
    "params": _write_params,
    "shared_params": _write_shared_params,
    "artifact": _write_artifact,
    "table": _write_table,
    "dataset": _write_dataset,
    "tags": _write_tags,
    "end": _write_end,
}


def _status(error: BaseException) -> str:
    """MLflow's word for how a stage ended."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        return "KILLED"
    return "FINISHED" if isinstance(error, SystemExit) and not error.code else "FAILED"


def _tags(stage: str, strategy: str | None) -> dict[str, str]:
    commit, dirty = provenance.git_state()
    tags = {
        "dvc.stage": stage,
        "dvc.fingerprint": provenance.fingerprint(stage),
        "dvc.exp": os.environ.get("DVC_EXP_NAME"),
        "git.commit": commit,
        "git.dirty": str(dirty).lower(),
        "prefect.flow_run_id": os.environ.get("PREFECT__FLOW_RUN_ID"),
        "nas.strategy": strategy,
    }
    return {key: value for key, value in tags.items() if value is not None}


def _interrupted(client, experiment: str, tags: dict[str, str]) -> "Run | None":
    """The latest run of this stage with this fingerprint, if it neither finished nor still goes on."""
    same = f"tags.`dvc.stage` = '{tags['dvc.stage']}' and tags.`dvc.fingerprint` = '{tags['dvc.fingerprint']}'"
    latest = next(iter(client.search_runs([experiment], same, order_by=["attributes.start_time DESC"], max_results=1)), None)
    if latest is None or latest.info.status == "FINISHED":
        return None
    goes_on = latest.info.status == "RUNNING" and processes.alive(latest.data.tags[PROCESS])
    return None if goes_on else latest


def _parent(client, experiment: str, pipeline: Pipeline, resumed: "Run | None", tags: Mapping[str, str], late: bool) -> str:
    """The run of this pipeline: the one it has, else the one that the resumed stage was under, else a new one."""
    own = client.search_runs([experiment], f"tags.`{PIPELINE}` = '{pipeline.key}'", max_results=1)
    if own and (late or own[0].data.tags[PROCESS] == pipeline.owner):
        return own[0].info.run_id
    if own:  # a flow run that Prefect started again
        return _reopen(client, own[0].info.run_id, {PROCESS: pipeline.owner})
    _end_abandoned(client, experiment)
    shared = {k: v for k, v in tags.items() if not k.startswith("dvc.") or k == "dvc.exp"}
    shared |= {PIPELINE: pipeline.key, PROCESS: pipeline.owner}
    former = resumed and client.get_run(resumed.data.tags[PARENT])
    if former and former.info.status in ("FAILED", "KILLED"):
        return _reopen(client, former.info.run_id, shared)
    return client.create_run(experiment, tags=shared, run_name=tags.get("dvc.exp", pipeline.name)).info.run_id


def _reopen(client, run_id: str, tags: Mapping[str, str]) -> str:
    client.update_run(run_id, status="RUNNING")
    _set_tags(client, run_id, tags)
    return run_id


def _end_abandoned(client, experiment: str) -> None:
    """End the runs whose process is gone.

    A stage was killed. A pipeline all of whose stages finished did so too: it was `dvc repro train`, or the last
    stage was up to date.
    """
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    gone = [r for r in running if r.data.tags.get(PROCESS) and not processes.alive(r.data.tags[PROCESS])]
    for run in sorted(gone, key=lambda r: PIPELINE in r.data.tags):  # stages before their parents
        status, ended = "KILLED", None
        if PIPELINE in run.data.tags:
            stages = client.search_runs([experiment], f"tags.`{PARENT}` = '{run.info.run_id}'")
            if stages and all(s.info.status == "FINISHED" for s in stages):
                status, ended = "FINISHED", max(s.info.end_time for s in stages)
        client.set_terminated(run.info.run_id, status, ended)


def _set_tags(client, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])


def _log_params(client, run_id: str, parameters: dict[str, str]) -> None:
    """Those that the run doesn't have yet: MLflow never changes one."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    fresh = [Param(k, v) for k, v in parameters.items() if k not in known]
    for i in range(0, len(fresh), MOST_PARAMS):
        client.log_batch(run_id, params=fresh[i : i + MOST_PARAMS])


def _flat(parameters: Any, prefix: str = "") -> dict[str, str]:
    """{"train": {"epochs": 3}} -> {"train.epochs": "3"}; lists are values."""
    if isinstance(parameters, BaseModel):
        parameters = parameters.model_dump(mode="json")
    if not isinstance(parameters, Mapping):
        return {prefix: str(list(parameters) if isinstance(parameters, Sequence) and not isinstance(parameters, str) else parameters)}
    return {k: v for key, value in parameters.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else str(key)).items()}


def _lock():
    """Between processes: the first opening of a database must not happen twice at once, its migration would break."""
    import filelock

    return filelock.FileLock(processes.project_root() / ".mlflow.lock")


@dataclass(frozen=True)
class _Address:
    """A store that may or may not be there."""

    uri: str
    named: str  # for the user: where the address was found

    @property
    def file(self) -> Path | None:
        """Of an SQLite database."""
        return Path(self.uri.removeprefix(SQLITE).partition("?")[0]) if self.uri.startswith(SQLITE) else None

    def reach(self, make: bool = False) -> None:
        """See at once that the store is there: MLflow itself would try for minutes, or write to a file that has no name any more.

        Args:
            make: an SQLite file that is not there is made.

        Raises:
            OSError, sqlite3.Error: if it is not there, or locked.
        """
        if self.file is not None:
            if make:
                with _lock(), contextlib.closing(sqlite3.connect(self.file, timeout=LOCKED)) as database:
                    database.execute("PRAGMA journal_mode=WAL")  # kept in the file; readers and a writer don't wait for each other
            self.ready()
        elif self.uri.startswith(("http://", "https://")):
            with contextlib.suppress(urllib.error.HTTPError):  # it answers, be it "log in first"
                urllib.request.urlopen(self.uri, timeout=10).close()

    def ready(self) -> None:
        """`reach`, where that costs next to nothing: before each write."""
        if self.file is None:
            return
        if not self.file.exists():
            raise FileNotFoundError(f"{self.file} is not there")
        with contextlib.closing(sqlite3.connect(self.file, timeout=LOCKED)) as database:
            database.execute("BEGIN IMMEDIATE")

    def was_reached(self) -> bool:
        """Whether a stage of this project has used the store."""
        file = _waiting() / REACHED
        return file.is_file() and self.hash in file.read_text().split()

    def note_reached(self) -> None:
        if not self.was_reached():
            _waiting().mkdir(parents=True, exist_ok=True)
            with open(_waiting() / REACHED, "a") as file:
                file.write(self.hash + "\n")

    @property
    def hash(self) -> str:
        """Tells stores apart."""
        return hashlib.sha256(self.uri.encode()).hexdigest()  # an address may hold a password


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[_Address]:
    """Have mlflow use the store, whether it is there or not. MLFLOW_TRACKING_URI overrides the settings."""
    override = os.environ.get("MLFLOW_TRACKING_URI")
    before = {key: os.environ.get(key) for key in ("MLFLOW_TRACKING_URI", *PATIENCE)}
    uri = _absolute(override or settings.uri)
    named = f"MLFLOW_TRACKING_URI is {uri}" if override else f"params.yaml: tracking.uri is {settings.uri!r} ({uri})"
    for key, value in PATIENCE.items():
        os.environ.setdefault(key, value)
    try:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # tables created, metrics started: all well
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback where one line of ours tells enough
        mlflow.set_tracking_uri(uri)
        yield _Address(uri, named)
    finally:
        _restore(before)  # set_tracking_uri leaves its choice there


def _absolute(uri: str) -> str:
    path = uri.removeprefix(SQLITE)
    return f"{SQLITE}{processes.project_root() / path}" if uri.startswith(SQLITE) and path else uri


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        _restore(before)


def _restore(environment: Mapping[str, str | None]) -> None:
    for key, value in environment.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM raises `Terminated`, in this process only: forked data loaders end the usual way.

    A cancelled flow sends two at once, one to the group and one through the end of dvc: the second is passed over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, last = os.getpid(), -math.inf

    def handle(number: int, frame: object) -> None:
        nonlocal last
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif time.monotonic() - last > TOGETHER:
            last = time.monotonic()
            raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(words: Sequence[str]) -> None:
    """The command line; exits with 1 where something waits still."""
    if list(words) != ["deliver"]:
        sys.exit("usage: python -m nas.tracking.session deliver")
    with _store(params.read("tracking", Settings)) as store:
        try:
            store.reach(make=True)
        except (OSError, sqlite3.Error) as error:
            sys.exit(f"error: can't use the MLflow store: {store.named}: {error}")
        left = deliver(store, anywhere=True)
    if left:
        sys.exit(f"{left} journals wait still in {_waiting()}")
    print("nothing waits for MLflow")


if __name__ == "__main__":
    main(sys.argv[1:])

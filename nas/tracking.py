"""Stages as MLflow runs, under one parent run for each run of the pipeline. The only module that imports mlflow.

The stages of one `dvc` command (or one Prefect flow run, env NAS_PIPELINE) share a parent; `close_pipeline`
ends it. A stage that was interrupted and starts again with the same DVC fingerprint goes on in the MLflow run
it had, and the new pipeline takes over that run's parent. Nothing is written by ranks other than 0.
"""

import contextlib
import logging
import math
import os
import signal
import sqlite3
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from nas import params, provenance

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from mlflow.entities import Run

PIPELINE, PROCESS = "nas.pipeline", "nas.process"  # tags: the key that stages share; whose life a run depends on
PARENT = "mlflow.parentRunId"
MOST_PARAMS = 100  # MLflow takes so many in one call
SQLITE = "sqlite:///"
TOGETHER = 5.0  # seconds within which several SIGTERM mean one


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
        owner = provenance.dvc_process() or provenance.process_token()
        experiment = os.environ.get("DVC_EXP_NAME")  # one worker of DVC's queue runs many experiments
        return cls(f"{experiment}@{owner}" if experiment else owner, owner)

    @property
    def ends_with_stage(self) -> bool:
        """True for a stage that is run by hand."""
        return self.key == provenance.process_token()


class StageRun:
    """What a stage writes to: the MLflow run that is open."""

    def __init__(self, mlflow: ModuleType | None, run_id: str, parent_id: str, resumed: bool, inputs: Mapping[str, str], shares: bool):
        self._mlflow = mlflow
        self._shares = shares  # final figures are the parent's too
        self.id = run_id
        self.parent_id = parent_id
        self.resumed = resumed  # True: the run holds what an interrupted one wrote
        self.inputs = inputs  # path -> md5 of the stage's dependencies
        self._closes = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of one step (an epoch, a generation); when this returns they are on disk."""
        self._mlflow.log_metrics({k: float(v) for k, v in metrics.items()}, step=step, synchronous=True)

    def summary(self, metrics: Mapping[str, float], stage: str) -> None:
        """Final figures, as `<stage>/<key>`, on this run and, if it shares them, on the pipeline's, where pipelines are compared.

        A figure that this run has as a curve ends with its final value already; one more point would spoil the curve.
        """
        named = {f"{stage}/{k}": float(v) for k, v in metrics.items()}
        curves = self._mlflow.get_run(self.id).data.metrics
        self._mlflow.log_metrics({k: v for k, v in named.items() if k not in curves})
        if self._shares:
            self._mlflow.log_metrics(named, run_id=self.parent_id)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or a folder with all that is in it."""
        (self._mlflow.log_artifacts if Path(path).is_dir() else self._mlflow.log_artifact)(str(path), folder)

    def table(self, frame: "pd.DataFrame", name: str) -> None:
        """A table, shown by MLflow's UI; `name` ends in .json. Written again, it replaces the earlier one."""
        self._mlflow.log_table(frame, name)  # adds to a table of that name, and tells the UI
        self._mlflow.log_text(frame.to_json(orient="split", index=False), name)

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
        tags = {key: str(value) for key, value in facts.items()}
        self._mlflow.log_input(MetaDataset(source, name=path, digest=digest), context=context, tags=tags)

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
        """Log a network as pt2 (torch.export, no pickle), register it, and move the alias to it.

        Args:
            name: of the logged model within the run.
            module: in eval mode; called with one tensor.
            example: (batch, channels, side, side); a batch of 1 would fix the batch size in the exported network.
            registered_name: in the registry; the model is found again as `models:/<registered_name>@<alias>`.
            metrics: linked to the model.
            tags: put on the registered version.

        Returns:
            The registered version.

        Raises:
            ValueError: for a module in training mode and for a batch of one.
        """
        import torch
        from mlflow.models import infer_signature

        if module.training:
            raise ValueError(f"model {name!r} is in training mode; call .eval() first, its batch norm would depend on the batch")
        if len(example) < 2:
            raise ValueError(f"model {name!r}: an example batch of {len(example)}; at least 2 are needed to leave the batch size free")
        with torch.no_grad():
            output = module(torch.from_numpy(example)).numpy()
        info = self._mlflow.pytorch.log_model(
            module,
            name=name,
            serialization_format="pt2",
            input_example=example,
            signature=infer_signature(example, output),
            registered_model_name=registered_name,
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )
        if metrics:
            self._mlflow.log_metrics({k: float(v) for k, v in metrics.items()}, model_id=info.model_id)
        client, version = self._mlflow.MlflowClient(), str(info.registered_model_version)
        for key, value in (tags or {}).items():
            client.set_model_version_tag(registered_name, version, key, value)
        client.set_registered_model_alias(registered_name, alias, version)
        return version

    def tag(self, **tags: str) -> None:
        self._mlflow.set_tags(tags)

    def close_pipeline(self) -> None:
        """This is the pipeline's last stage: its parent run ends with it."""
        self._closes = True


class SilentRun(StageRun):
    """The run of the ranks other than 0: nothing is written."""

    def __init__(self):
        super().__init__(None, "", "", False, {}, False)

    def log(self, *args, **kwargs) -> None: ...

    summary = artifact = table = dataset = tag = log

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
        TrackingError: if the store can't be used; names tracking.uri.
        RuntimeError: outside git or DVC.
    """
    if "DVC_STAGE" in os.environ:
        provenance.die_with_parent()
    if int(os.environ.get("RANK", "0")) != 0:
        yield SilentRun()
        return
    settings = settings or params.read("tracking", Settings)
    tags = _tags(stage, strategy)
    inputs = provenance.inputs(stage)
    with _store(settings) as experiment:
        yield from _tracked(title or stage, _flat(parameters), tags, settings, experiment, inputs, Pipeline.current(group), shares)


def _tracked(
    title: str, parameters: dict, tags: dict, settings: Settings, experiment: str, inputs: dict, pipeline: Pipeline, shares: bool
) -> Iterator[StageRun]:
    import mlflow

    client = mlflow.MlflowClient()
    with _lock():  # two stages of one pipeline must not both make its parent
        before = _interrupted(client, experiment, tags)
        parent = _parent(client, experiment, pipeline, before, tags if shares else {k: v for k, v in tags.items() if k != "nas.strategy"})
        links = {PARENT: parent, PROCESS: provenance.process_token()}
        options = {"log_system_metrics": settings.system_metrics, "tags": tags | links}
        if before:
            mlflow.start_run(before.info.run_id, **options)
        else:
            mlflow.start_run(experiment_id=experiment, run_name=title, **options)
    run = StageRun(mlflow, mlflow.active_run().info.run_id, parent, before is not None, inputs, shares)
    began, earlier = time.monotonic(), before.data.metrics.get("seconds", 0.0) if before else 0.0
    status = "FAILED"
    with _sigterm_unwinds():  # not earlier: a bare `except` somewhere in the imports would swallow it
        try:
            _log_params(client, run.id, parameters)
            if shares:
                _log_params(client, parent, parameters)
            yield run
            status = "FINISHED"
        except BaseException as error:
            status = _status(error)
            raise
        finally:
            mlflow.log_metric("seconds", earlier + time.monotonic() - began)
            mlflow.end_run(status)
            open_still = client.get_run(parent).info.status == "RUNNING"
            if open_still and (status != "FINISHED" or run._closes or pipeline.ends_with_stage):
                client.set_terminated(parent, status)


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
    goes_on = latest.info.status == "RUNNING" and provenance.alive(latest.data.tags[PROCESS])
    return None if goes_on else latest


def _parent(client, experiment: str, pipeline: Pipeline, resumed: "Run | None", tags: dict[str, str]) -> str:
    """The run of this pipeline: the one it has, else the one that the resumed stage was under, else a new one."""
    own = client.search_runs([experiment], f"tags.`{PIPELINE}` = '{pipeline.key}'", max_results=1)
    if own and own[0].data.tags[PROCESS] == pipeline.owner:
        return own[0].info.run_id
    if own:  # a flow run that Prefect started again
        return _reopen(client, own[0].info.run_id, {PROCESS: pipeline.owner})
    _end_abandoned(client, experiment)
    shared = {k: v for k, v in tags.items() if not k.startswith("dvc.") or k == "dvc.exp"}
    shared |= {PIPELINE: pipeline.key, PROCESS: pipeline.owner}
    former = resumed and client.get_run(resumed.data.tags[PARENT])
    if former and former.info.status in ("FAILED", "KILLED"):
        return _reopen(client, former.info.run_id, shared)
    return client.create_run(experiment, tags=shared, run_name=os.environ.get("DVC_EXP_NAME", pipeline.name)).info.run_id


def _reopen(client, run_id: str, tags: Mapping[str, str]) -> str:
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    client.update_run(run_id, status="RUNNING")
    return run_id


def _end_abandoned(client, experiment: str) -> None:
    """End the runs whose process is gone.

    A stage was killed. A pipeline all of whose stages finished did so too: it was `dvc repro train`, or the last
    stage was up to date.
    """
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    gone = [r for r in running if r.data.tags.get(PROCESS) and not provenance.alive(r.data.tags[PROCESS])]
    for run in sorted(gone, key=lambda r: PIPELINE in r.data.tags):  # stages before their parents
        status, ended = "KILLED", None
        if PIPELINE in run.data.tags:
            stages = client.search_runs([experiment], f"tags.`{PARENT}` = '{run.info.run_id}'")
            if stages and all(s.info.status == "FINISHED" for s in stages):
                status, ended = "FINISHED", max(s.info.end_time for s in stages)
        client.set_terminated(run.info.run_id, status, ended)


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

    return filelock.FileLock(provenance.project_root() / ".mlflow.lock")


@contextlib.contextmanager
def _store(settings: Settings) -> Iterator[str]:
    """Open the store; gives the experiment's id. MLFLOW_TRACKING_URI overrides the settings."""
    override = os.environ.get("MLFLOW_TRACKING_URI")
    before = {key: os.environ.get(key) for key in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")}
    uri = _absolute(override or settings.uri)
    where = f"MLFLOW_TRACKING_URI is {uri}" if override else f"params.yaml: tracking.uri is {settings.uri!r} ({uri})"
    try:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # tables created, metrics started: all well
        _reach(uri)
        with _lock():
            mlflow.set_tracking_uri(uri)
            experiment = mlflow.MlflowClient().get_experiment_by_name(settings.experiment)
            if experiment is None:
                folder = (provenance.project_root() / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None
                identity = mlflow.MlflowClient().create_experiment(settings.experiment, artifact_location=folder)
            else:
                identity = experiment.experiment_id
            mlflow.set_experiment(experiment_id=identity)
    except Exception as error:  # many kinds: sqlite3, sqlalchemy, urllib, mlflow
        _restore(before)
        raise TrackingError(f"can't use the MLflow store: {where}: {error}") from error
    try:
        yield identity
    finally:
        _restore(before)  # set_tracking_uri and set_experiment leave their choice there


def _absolute(uri: str) -> str:
    path = uri.removeprefix(SQLITE)
    return f"{SQLITE}{provenance.project_root() / path}" if uri.startswith(SQLITE) and path else uri


def _reach(uri: str) -> None:
    """See that the store is there: MLflow itself would try for minutes. An SQLite file is made, for many writers at once."""
    if uri.startswith(SQLITE):
        with _lock(), contextlib.closing(sqlite3.connect(uri.removeprefix(SQLITE).partition("?")[0])) as database:
            database.execute("PRAGMA journal_mode=WAL")  # kept in the file; readers and a writer don't wait for each other
    elif uri.startswith(("http://", "https://")):
        with contextlib.suppress(urllib.error.HTTPError):  # it answers, be it "log in first"
            urllib.request.urlopen(uri, timeout=10).close()


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

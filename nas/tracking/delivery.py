"""Deliver a note to MLflow: make its run, then write what the run lacks, skipping what it has.

The one path to MLflow, for a stage that logs now and for a note from the outbox. MLflow's client is used instead of its
fluent API: a run may be made after the stage ended, with the stage's own times, and two runs may be open at once.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.runtime import processes
from nas.tracking import store as stores
from nas.tracking.outbox import Note, NoteError
from nas.tracking.store import Store, is_away

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PIPELINE, PROCESS = "nas.pipeline", "nas.process"  # tags: the key that a pipeline's stages share; the process that a run depends on
START = "nas.start"  # tag: identifies one start of a stage, so that it gets one run
PARENT = "mlflow.parentRunId"
DESCRIPTION = "mlflow.note.content"
BATCH = {"params": 100, "metrics": 1000}  # MLflow's limits for one log_batch


@dataclass(frozen=True)
class RunSpec:
    """What a stage's run is made from."""

    key: str  # identifies this start of the stage
    name: str
    tags: dict[str, str]
    experiment: str
    pipeline: str  # key
    pipeline_name: str
    shares: bool  # parameters, datasets and final metrics belong to the parent too
    process: str  # token
    start_ms: int  # since 1970


@dataclass(frozen=True)
class RunIds:
    """A stage's run in MLflow; empty as long as MLflow does not have it."""

    run: str = ""
    parent: str = ""
    resumed: bool = False


def deliver(note: Note, store: Store) -> RunIds:
    """Write what waits; the note is empty afterwards, and still on the disk if it was.

    A value that MLflow refuses raises if it was logged just now; in a saved note it is moved to refused.jsonl.

    Raises:
        NoteError: if the note does not say which run it is about.
        Exception: of many kinds; `is_away` tells whether the store is at fault.
    """
    try:
        spec, ids = RunSpec(**note.spec), RunIds(**note.ids)
    except TypeError as error:
        raise NoteError(f"{note.folder} does not say which run it is about ({error}); delete it to drop it") from None
    store.reach() if note.saved else store.check()
    client = stores.client()
    if not ids.run or (note.saved and not _exists(client, ids.run)):
        ids = begin(client, spec)
        note.ids = asdict(ids)
    for kind, write in WRITERS.items():
        if not (items := note.pending.get(kind)):
            continue
        try:
            _offer(note, kind, items, lambda some, write=write: write(client, ids, some, note.saved or ids.resumed))
        except Exception as error:
            if is_away(error):
                raise
            note.pending[kind] = []
            raise
        note.pending[kind] = []
    return ids


def deliver_all(store: Store, any_store: bool = False) -> int:
    """Deliver the notes of ended stages; returns how many still wait.

    Args:
        any_store: also those meant for another store.
    """
    waiting = 0
    for folder in sorted(f for f in stores.outbox().glob("*-*") if f.is_dir()):
        note = None
        try:
            if (note := Note.take(folder)) is None:
                continue
            if any_store or note.store == store.hash:
                deliver(note, store)
                note.clear()
            else:
                waiting += 1
        except Exception as error:
            if not (isinstance(error, NoteError) or is_away(error)):
                raise
            print(f"{folder} waits for MLflow: {error}" if note else error, file=sys.stderr, flush=True)
            waiting += 1
        finally:
            if note:
                note.close()
    return waiting


def _offer(note: Note, kind: str, items: list, write: Callable[[list], None]) -> None:
    """Write all items in one call; of a saved note those that MLflow refuses are set aside."""
    from mlflow.exceptions import MlflowException

    try:
        write(items)
    except MlflowException as error:
        if is_away(error) or not note.saved:
            raise
        if len(items) > 1:
            for item in items:
                _offer(note, kind, [item], write)
            return
        refused = stores.outbox() / "refused.jsonl"
        with open(refused, "a") as file:
            file.write(json.dumps({"spec": note.spec, "ids": note.ids, kind: items}) + "\n")
        print(f"MLflow refuses a record of {note.spec['name']}: {error}; it is kept in {refused}", file=sys.stderr, flush=True)


def _exists(client: "MlflowClient", run_id: str) -> bool:
    """Whether the store has the run: not if the database was deleted meanwhile."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


# Runs and their parents


def begin(client: "MlflowClient", spec: RunSpec) -> RunIds:
    """Make the stage's run and, if there is none, its parent; or reopen the run of an interrupted start."""
    with stores.lock():  # two stages of one pipeline must not both make its parent
        experiment = _experiment(client, spec.experiment)
        if made := client.search_runs([experiment], f"tags.`{START}` = '{spec.key}'", max_results=1):
            return RunIds(made[0].info.run_id, made[0].data.tags[PARENT])  # MLflow's answer was lost
        _end_abandoned(client, experiment)
        interrupted = _interrupted(client, experiment, spec)
        parent = _parent(client, experiment, spec, interrupted)
        tags = spec.tags | {PARENT: parent, PROCESS: spec.process, START: spec.key}
        if interrupted:
            return RunIds(_reopen(client, interrupted.info.run_id, tags), parent, True)
        return RunIds(client.create_run(experiment, spec.start_ms, tags, spec.name).info.run_id, parent)


def _experiment(client: "MlflowClient", name: str) -> str:
    """Its id. A new experiment of an SQLite store keeps its artifacts in the project."""
    import mlflow

    if experiment := client.get_experiment_by_name(name):
        return experiment.experiment_id
    local = mlflow.get_tracking_uri().startswith(stores.SQLITE)
    return client.create_experiment(name, artifact_location=(processes.project_root() / "mlartifacts").as_uri() if local else None)


def _interrupted(client: "MlflowClient", experiment: str, spec: RunSpec) -> "Run | None":
    """The latest run of this stage with this fingerprint, if it did not finish and its process is gone."""
    same = " and ".join(f"tags.`{key}` = '{spec.tags[key]}'" for key in ("dvc.stage", "dvc.fingerprint"))
    runs = client.search_runs([experiment], same, order_by=["attributes.start_time DESC"])
    latest = next((run for run in runs if run.info.run_name == spec.name), None)
    if latest is None or latest.info.status == "FINISHED":
        return None
    return None if latest.info.status == "RUNNING" and processes.alive(latest.data.tags[PROCESS]) else latest


def _parent(client: "MlflowClient", experiment: str, spec: RunSpec, interrupted: "Run | None") -> str:
    """The pipeline's run: its own, else the one that the interrupted run is under, else a new one."""
    inherited = ("git.commit", "git.dirty", "prefect.flow_run_id", "dvc.exp", *(("nas.strategy",) if spec.shares else ()))
    tags = {key: spec.tags[key] for key in inherited if key in spec.tags}
    tags |= {PIPELINE: spec.pipeline, PROCESS: spec.process}
    if own := client.search_runs([experiment], f"tags.`{PIPELINE}` = '{spec.pipeline}'", max_results=1):
        return _reopen(client, own[0].info.run_id, tags)
    former = interrupted and client.get_run(interrupted.data.tags[PARENT])
    if former and former.info.status in ("FAILED", "KILLED"):
        return _reopen(client, former.info.run_id, tags)
    return client.create_run(experiment, spec.start_ms, tags, tags.get("dvc.exp", spec.pipeline_name)).info.run_id


def _reopen(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> str:
    client.update_run(run_id, status="RUNNING")
    _log_tags(client, run_id, tags.items())
    return run_id


def _end_abandoned(client: "MlflowClient", experiment: str) -> None:
    """End the runs whose process is gone: it was killed."""
    running = client.search_runs([experiment], "attributes.status = 'RUNNING'")
    gone = [r for r in running if r.data.tags.get(PROCESS) and not processes.alive(r.data.tags[PROCESS])]
    stages = [r for r in gone if PIPELINE not in r.data.tags]
    for run in stages:
        client.set_terminated(run.info.run_id, "KILLED")
    for parent in {r.data.tags[PARENT] for r in stages} | {r.info.run_id for r in gone if PIPELINE in r.data.tags}:
        _settle_parent(client, experiment, parent)


def _settle_parent(client: "MlflowClient", experiment: str, parent: str) -> None:
    """End a parent run none of whose stages runs; its status is the worst of its stages' latest runs.

    It ends whenever no stage runs, and opens again with the next one: which stage of a `dvc` command is the last is not known.
    """
    children = client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", order_by=["attributes.start_time DESC"])
    latest = {(r.data.tags["dvc.stage"], r.info.run_name): r.info.status for r in reversed(children)}
    status = next((s for s in ("RUNNING", "KILLED", "FAILED", "FINISHED") if s in latest.values()), "KILLED")
    if status != "RUNNING":
        client.set_terminated(parent, status, max((r.info.end_time for r in children), default=None))


# Writers: (client, ids, items, compare) -> None. `compare`: the run may have some of the items already.


def _log_params(client: "MlflowClient", run_id: str, items: Sequence[Sequence[str]]) -> None:
    """Those that the run doesn't have yet: MLflow never changes a parameter."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    params = [Param(key, value) for key, value in dict(items).items() if key not in known]
    for i in range(0, len(params), BATCH["params"]):
        client.log_batch(run_id, params=params[i : i + BATCH["params"]])


def _log_tags(client: "MlflowClient", run_id: str, items: Sequence[Sequence[str]]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in items])


def _log_metrics(client: "MlflowClient", run_id: str, points: Sequence[Sequence], model_id: str | None = None) -> None:
    """Points: key, value, time in ms, step."""
    from mlflow.entities import Metric

    metrics = [Metric(*point, model_id=model_id) for point in points]
    for i in range(0, len(metrics), BATCH["metrics"]):
        client.log_batch(run_id, metrics=metrics[i : i + BATCH["metrics"]])


def _write_curves(client: "MlflowClient", ids: RunIds, points: list, compare: bool) -> None:
    """A curve has one point per step."""
    keys = {point[0] for point in points} if compare else ()
    steps = {key: {m.step for m in client.get_metric_history(ids.run, key)} for key in keys}
    _log_metrics(client, ids.run, [p for p in points if p[3] not in steps.get(p[0], ())])


def _write_finals(client: "MlflowClient", ids: RunIds, points: list, compare: bool) -> None:
    """A metric that the run has as a curve ends with its final value already."""
    known = client.get_run(ids.run).data.metrics
    _log_metrics(client, ids.run, [p for p in points if p[0] not in known])


def _write_parent_metrics(client: "MlflowClient", ids: RunIds, points: list, compare: bool) -> None:
    known = client.get_run(ids.parent).data.metrics
    _log_metrics(client, ids.parent, [p for p in points if known.get(p[0]) != p[1]])


def _write_datasets(client: "MlflowClient", run_id: str, items: list) -> None:
    """MLflow itself skips a dataset that the run has."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    for item in items:
        dataset = Dataset(**{key: item["dataset"].get(key) for key in ("name", "digest", "source_type", "source", "schema", "profile")})
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(k, v) for k, v in item["tags"].items()])])


def _write_artifacts(client: "MlflowClient", ids: RunIds, items: list, compare: bool) -> None:
    for item in items:
        (client.log_artifacts if Path(item["path"]).is_dir() else client.log_artifact)(ids.run, item["path"], item["folder"])


def _write_tables(client: "MlflowClient", ids: RunIds, items: list, compare: bool) -> None:
    import pandas as pd

    for item in items:
        client.log_table(ids.run, pd.DataFrame(**json.loads(item["text"])), item["name"])  # tells the UI, but appends
        client.log_text(ids.run, item["text"], item["name"])


def _write_models(client: "MlflowClient", ids: RunIds, items: list, compare: bool) -> None:
    for item in items:
        _write_model(client, ids, item, compare)


def _write_model(client: "MlflowClient", ids: RunIds, item: Mapping[str, Any], compare: bool) -> None:
    """Log a saved model, register it, and link its metrics, at a step of its own.

    `Model.log` would link every metric that the run has at that step to the model.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    experiment, registered = client.get_run(ids.run).info.experiment_id, item["registered_name"]
    logged = client.search_logged_models([experiment], f"source_run_id = '{ids.run}'") if compare else []
    logged = [model for model in logged if model.name == item["name"]]
    model = logged[0] if logged else client.create_logged_model(experiment, item["name"], ids.run)
    if str(model.status) != "READY":
        description = Model.load(item["path"])
        description.run_id, description.model_id, description.model_uuid = ids.run, model.model_id, model.model_id
        description.artifact_path = model.artifact_location
        description.save(str(Path(item["path"]) / "MLmodel"))
        client.log_model_artifacts(model.model_id, item["path"])
        client.log_outputs(ids.run, [LoggedModelOutput(model.model_id, item["step"])])
        client.finalize_logged_model(model.model_id, "READY")
    source = f"models:/{model.model_id}"
    versions = client.search_model_versions(f"name = '{registered}'") if logged else []
    version = next((v.version for v in versions if v.source == source), None) or mlflow.register_model(source, registered).version
    linked = {m.key for m in client.get_logged_model(model.model_id).metrics or ()}
    _log_metrics(client, ids.run, [p for p in item["metrics"] if p[0] not in linked], model.model_id)
    for key, value in item["tags"].items():
        client.set_model_version_tag(registered, version, key, value)
    if item["alias"]:
        client.set_registered_model_alias(registered, item["alias"], version)


def _write_end(client: "MlflowClient", ids: RunIds, items: list, compare: bool) -> None:
    """Add the seconds of this start to those of earlier ones, and end the run and its parent."""
    (end,) = items
    earlier = sorted(client.get_metric_history(ids.run, "seconds"), key=lambda m: m.step)
    if all(m.timestamp != end["end_ms"] for m in earlier):
        seconds = end["seconds"] + (earlier[-1].value if earlier else 0)
        _log_metrics(client, ids.run, [("seconds", seconds, end["end_ms"], len(earlier))])
    client.set_terminated(ids.run, end["status"], end["end_ms"])
    with stores.lock():
        _settle_parent(client, client.get_run(ids.run).info.experiment_id, ids.parent)


WRITERS: dict[str, Callable] = {  # in this order
    "params": lambda client, ids, items, compare: _log_params(client, ids.run, items),
    "parent params": lambda client, ids, items, compare: _log_params(client, ids.parent, items),
    "tags": lambda client, ids, items, compare: _log_tags(client, ids.run, items),
    "parent tags": lambda client, ids, items, compare: _log_tags(client, ids.parent, items),
    "datasets": lambda client, ids, items, compare: _write_datasets(client, ids.run, items),
    "parent datasets": lambda client, ids, items, compare: _write_datasets(client, ids.parent, items),
    "curves": _write_curves,
    "finals": _write_finals,
    "parent metrics": _write_parent_metrics,
    "artifacts": _write_artifacts,
    "tables": _write_tables,
    "models": _write_models,
    "end": _write_end,
}

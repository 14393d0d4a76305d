"""Stages as MLflow runs, under one parent run for each run of the pipeline.

The name of a run is `title` of `nas.stages.runner.stage`; its tags and its parent are made by `_spec`.

The stages of one `dvc` command, of one Prefect flow run (env NAS_PIPELINE) or of one `Group` share a parent. It is RUNNING while
one of its stages is, and holds the parameters and metrics of the stages that DVC found up to date, too. A stage that was
interrupted and starts again with the same DVC fingerprint resumes its run, and the new pipeline takes over that run's parent;
steps that the run has are not logged twice. Only rank 0 writes.

A store that this project has never reached is an error at the first stage, since its address may be wrong; for one that answered
before, records wait in the outbox (`nas.tracking.runs`). Where a database was deleted, the next stage makes a new one.
"""

import contextlib
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel

from nas.runtime import params, processes
from nas.tracking import provenance, store
from nas.tracking.delivery import DESCRIPTION, RunIds, RunSpec
from nas.tracking.outbox import Note
from nas.tracking.provenance import Origin
from nas.tracking.runs import SilentRun, StageRun, now_ms
from nas.tracking.store import TrackingConfig

SIGTERM_WINDOW = 5.0  # seconds within which several SIGTERM mean one


class Terminated(SystemExit):
    """SIGTERM arrived."""


@dataclass(frozen=True)
class Group:
    """Runs that are compared with each other: they share a parent whenever they run."""

    name: str  # of the parent run
    key: str  # the same for all of them


@contextlib.contextmanager
def stage_run(
    stage: str,
    parameters: Mapping[str, Any],
    strategy: str | None = None,
    config: TrackingConfig | None = None,
    title: str | None = None,
    group: Group | None = None,
    shares: bool = True,
) -> Iterator[StageRun]:
    """Run a stage as an MLflow run: FINISHED at the end, FAILED by an exception, KILLED by Ctrl-C or SIGTERM.

    Run by DVC, the process also ends when DVC is killed. SIGTERM unwinds the stage as Ctrl-C does.

    Args:
        stage: its address in dvc.yaml.
        parameters: what the stage reads from params.yaml, nested (sections or mappings); logged as `train.epochs`.
        strategy: tag nas.strategy, to compare pipelines by.
        config: section `tracking`; read from params.yaml if None.
        title: the run's name; the stage's if None.
        group: what the run is compared within; None: it belongs to the run of the pipeline.
        shares: parameters, datasets and final metrics are put on the parent too; False for one of many similar runs.

    Raises:
        TrackingError: if the store can't be used and never answered this project; names tracking.uri.
        RuntimeError: outside git or DVC.
    """
    if "DVC_STAGE" in os.environ:
        processes.die_with_parent()
    if int(os.environ.get("RANK", "0")) != 0:
        yield SilentRun()
        return
    config = config or params.read("tracking", TrackingConfig)
    with store.use(config) as used:
        origin = provenance.origin(stage)
        spec = _spec(stage, origin, title or stage, strategy, config.experiment, group, shares)
        note = Note(store.outbox() / f"{spec.start_ms:013d}-{spec.key}", used.hash, asdict(spec), asdict(RunIds()))
        run = StageRun(used, note, origin.inputs, config.system_metrics)
        run.open()
        began, status = time.monotonic(), "FAILED"
        with _sigterm_unwinds():  # not earlier: a bare `except` somewhere in the imports would swallow it
            try:
                run.params(_flat(parameters))
                yield run
                if shares:
                    _share_up_to_date(run, stage, origin.description)
                status = "FINISHED"
            except BaseException as error:
                status = _status(error)
                raise
            finally:
                run.end(status, time.monotonic() - began)


def _spec(stage: str, origin: Origin, name: str, strategy: str | None, experiment: str, group: Group | None, shares: bool) -> RunSpec:
    """Of a stage that starts now, in this process."""
    from mlflow.tracking.context.registry import resolve_tags

    commit, dirty = provenance.git_state()
    tags = {
        "dvc.stage": stage,
        "dvc.fingerprint": origin.fingerprint,
        "dvc.exp": os.environ.get("DVC_EXP_NAME"),
        "git.commit": commit,
        "git.dirty": str(dirty).lower(),
        "prefect.flow_run_id": os.environ.get("PREFECT__FLOW_RUN_ID"),
        "nas.strategy": strategy,
        DESCRIPTION: origin.description or None,
    }
    tags = resolve_tags() | {key: value for key, value in tags.items() if value is not None}  # MLflow's: user, source
    pipeline = f"{group.name}-{group.key}" if group else _pipeline_key()
    parent_name = group.name if group else "pipeline"
    return RunSpec(uuid.uuid4().hex, name, tags, experiment, pipeline, parent_name, shares, processes.process_token(), now_ms())


def _pipeline_key() -> str:
    """The same for all stages of a Prefect flow run (NAS_PIPELINE), of a `dvc` command, else of this process."""
    if key := os.environ.get("NAS_PIPELINE"):
        return key
    process = processes.dvc_process() or processes.process_token()
    experiment = os.environ.get("DVC_EXP_NAME")  # one worker of DVC's queue runs many experiments
    return f"{experiment}@{process}" if experiment else process


def _share_up_to_date(run: StageRun, stage: str, description: str) -> None:
    """Put the parameters and metrics of the stages that DVC need not run on the parent, and name the stages that it stands for.

    The stage's work is done: what goes wrong here, a dvc.yaml that is being edited, is reported only.
    """
    try:
        results = provenance.up_to_date(stage)
        described = [(stage.rpartition(":")[2], description), *((r.name, r.description) for r in results)]
        text = "Results of these stages, run or up to date:\n\n" + "\n".join(f"- {name}: {desc}".rstrip(": ") for name, desc in described)
        parameters = {key: value for result in results for key, value in _flat(result.parameters).items()}
        run.share(parameters, {f"{r.name}/{key}": value for r in results for key, value in r.metrics.items()}, text)
    except Exception as error:
        print(f"the pipeline's MLflow run lacks the stages that are up to date: {error}", file=sys.stderr, flush=True)


def _status(error: BaseException) -> str:
    """MLflow's word for how a stage ended."""
    if isinstance(error, KeyboardInterrupt | Terminated):
        return "KILLED"
    return "FINISHED" if isinstance(error, SystemExit) and not error.code else "FAILED"


def _flat(parameters: Any, prefix: str = "") -> dict[str, str]:
    """{"train": {"epochs": 3}} -> {"train.epochs": "3"}; lists are values."""
    if isinstance(parameters, BaseModel):
        parameters = parameters.model_dump(mode="json")
    if not isinstance(parameters, Mapping):
        return {prefix: str(list(parameters) if isinstance(parameters, Sequence) and not isinstance(parameters, str) else parameters)}
    return {k: v for key, value in parameters.items() for k, v in _flat(value, f"{prefix}.{key}" if prefix else str(key)).items()}


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM raises `Terminated`, in this process only: forked data loaders end the usual way.

    A cancelled flow sends two at once, one to the group and one when dvc ends: the second is ignored.
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
        elif time.monotonic() - last > SIGTERM_WINDOW:
            last = time.monotonic()
            raise Terminated(128 + number)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

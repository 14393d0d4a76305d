"""DVC stages as Prefect tasks: what the flows share.

DVC alone knows the stages, their order and whether they are up to date. A task is one `dvc repro --single-item`, so
after a flow `dvc repro` has nothing to do, and vice versa. Concurrent stages are safe: dvc waits for the repository's
lock, releases it only while a stage's own command runs, and reads dvc.lock again before writing to it.

A failed stage is not retried. Failures of the infrastructure are retried after `RETRY_DELAYS_S`: the DVC remote or
Prefect's server does not answer, so that a stage cannot be run or its outputs cannot be stored.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import networkx
from dvc.exceptions import DvcException
from dvc.repo import Repo
from prefect import State, Task, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.runtime import flow_run

from flows.commands import GPU, TRAININGS, Commands, Overrides, RemoteFailed, StageFailed, limits_set, set_params, slots

COMPUTE_SECTIONS = ("runtime", "latency")  # of params.yaml: a stage that reads one runs networks on the device
RETRY_DELAYS_S = (10, 60, 300)  # after failures of the infrastructure
COMMAND_FAILED = "failed to run:"  # in dvc's output if a stage's own command failed


@dataclass(frozen=True)
class Stage:
    """A stage of a dvc.yaml."""

    address: str  # `train` or `other/dvc.yaml:train@uniform-0`
    metrics: tuple[str, ...] = ()  # JSON files
    needs: tuple[str, ...] = ()  # addresses of the stages that it depends on
    runs_networks: bool = False  # on a GPU if there is one

    @property
    def limits(self) -> tuple[str, ...]:
        """Concurrency limits that apply to it, in the order in which every stage takes its slots."""
        return (TRAININGS, GPU) if self.runs_networks else (TRAININGS,)


@dataclass
class StageResult:
    """One row of the table of a flow run."""

    stage: str
    result: str = "not run"  # or ran, cached, failed
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    ran: bool = False  # in any attempt

    def cells(self) -> dict[str, str | float]:
        metrics = ", ".join(f"{k} {v:.4g}" for k, v in self.metrics.items())
        return {"stage": self.stage, "result": self.result, "seconds": round(self.seconds, 1), "metrics": metrics}


def addresses(targets: list[str], pipeline: str) -> list[str]:
    """Targets in dvc's notation: a bare name is a stage or a whole matrix of the pipeline, no target is the whole pipeline.

    Args:
        pipeline: a dvc.yaml.
    """
    return [target if ":" in target else f"{pipeline}:{target}" for target in targets] or [pipeline]


def plan(targets: list[str]) -> list[Stage]:
    """The targets (none: all of dvc.yaml) and their dependencies, in topological order.

    Args:
        targets: a stage, all stages of a matrix, or a dvc.yaml file with all of its stages.

    Raises:
        ValueError: for an unknown target.
    """
    with Repo(".") as repo:
        try:
            collected = [stage for target in targets or ["dvc.yaml"] for stage in repo.stage.collect(target)]
        except DvcException as error:
            known = sorted(stage.addressing for stage in repo.index.stages)
            raise ValueError(f"unknown target: {error}; the stages are {known}") from None
        graph = repo.index.graph  # an edge leads from a stage to one it depends on
        needed = set(collected).union(*(networkx.descendants(graph, stage) for stage in collected))
        order = networkx.lexicographical_topological_sort(graph.subgraph(needed).reverse(), key=lambda stage: stage.addressing)
        return [
            Stage(
                stage.addressing,
                tuple(os.path.relpath(metric.fs_path) for metric in stage.metrics),
                tuple(sorted(other.addressing for other in graph.successors(stage))),
                any(key.split(".")[0] in COMPUTE_SECTIONS for dep in stage.params for key in dep.params),
            )
            for stage in order
        ]


@dataclass(frozen=True)
class RunOptions:
    """Options of a flow run that apply to all of its stages."""

    commands: Commands
    force: bool  # run stages even if they are up to date
    shared: bool  # pull from and push to the DVC remote
    limits: frozenset[str]  # existing concurrency limits


def outcome(stage: Stage, lines: list[str]) -> str:
    """From dvc's output: "ran", or "cached" if the outputs were up to date or in the cache."""
    return "ran" if f"Running stage '{stage.address}':" in lines else "cached"


@contextmanager
def timed(result: StageResult) -> Iterator[None]:
    """Record the seconds; the result is "failed" until the caller sets another one."""
    start, result.result = time.monotonic(), "failed"
    try:
        yield
    finally:
        result.seconds = time.monotonic() - start


@contextmanager
def result_table(results: Iterable[StageResult], key: str) -> Iterator[None]:
    """At the end, also after a failure, store the results as a Prefect artifact."""
    try:
        yield
    finally:
        create_table_artifact([result.cells() for result in results], key=key, description="Stages of this flow run")


def numeric_entries(files: Iterable[dict]) -> dict[str, float]:
    """The numbers among the top-level entries of metrics files; a file that is a list has none."""
    entries = (entry for file in files if isinstance(file, dict) for entry in file.items())
    return {key: value for key, value in entries if isinstance(value, int | float) and not isinstance(value, bool)}


def infrastructure_failed(task: Task, run: TaskRun, state: State) -> bool:
    """Whether the DVC remote or Prefect's server failed, not the stage: the retry condition of `run_stage`."""
    try:
        state.result()
    except (RemoteFailed, ConcurrencySlotAcquisitionError, httpx.HTTPError):
        return True
    except BaseException:
        return False
    return False


@task(
    task_run_name="{stage.address}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=list(RETRY_DELAYS_S),
    retry_condition_fn=infrastructure_failed,
)
def run_stage(stage: Stage, result: StageResult, options: RunOptions) -> None:
    """Bring one stage up to date and record its result.

    Raises:
        StageFailed: if dvc fails.
    """
    with slots((name for name in stage.limits if name in options.limits), options.commands), timed(result):
        result.ran |= outcome(stage, _repro(stage, options)) == "ran"
        if options.shared:
            _push(stage, options.commands)
        result.result = "ran" if result.ran else "cached"
        result.metrics = numeric_entries(json.loads(Path(path).read_text()) for path in stage.metrics)


def run_experiment(targets: list[str], overrides: Overrides, force: bool, key: str) -> None:
    """Run the targets and their dependencies with other parameters: one `dvc exp run` in a copy of the tree.

    Args:
        overrides: e.g. {"train.epochs": 2}, or {"other/params.yaml:train.epochs": 2} for another file than params.yaml.
        key: of the result table.
    """
    stages = plan(targets)
    results = [StageResult(stage.address) for stage in stages]
    name = f"{flow_run.name}-{flow_run.run_count}"  # a restarted flow run needs another name
    experiment = StageResult(f"experiment {name}")
    with result_table([experiment, *results], key):
        with timed(experiment):
            lines, experiment.result = _run_experiment(name, targets, overrides, force), "ran"
        metrics = _experiment_metrics(name)
        for stage, result in zip(stages, results):
            result.result = outcome(stage, lines)
            result.metrics = numeric_entries(metrics[path] for path in stage.metrics if path in metrics)


@task(name="run_experiment", cache_policy=NO_CACHE, retries=0)
def _run_experiment(name: str, targets: list[str], overrides: Overrides, force: bool) -> list[str]:
    """The output of dvc."""
    forced, commands, limits = ["--force"] if force else [], Commands(), limits_set()
    with slots((limit for limit in (TRAININGS, GPU) if limit in limits), commands):
        return commands.dvc("--wait-for-lock", "exp", "run", "--temp", "--name", name, *set_params(overrides), *forced, *targets)


def _experiment_metrics(name: str) -> dict[str, dict]:
    """Path -> content of the metrics files of a finished experiment; git-ignored files are not part of an experiment."""
    with Repo(".") as repo:
        files = repo.metrics.show(revs=[name])[name]["data"]
    return {path: file["data"] for path, file in files.items() if "data" in file}


def _repro(stage: Stage, options: RunOptions) -> list[str]:
    """The output of dvc; with a remote, outputs that it has are fetched instead of computed."""
    command = ["--wait-for-lock", "repro", "--single-item"]
    flags = [*(["--force"] if options.force else []), *(["--pull"] if options.shared else [])]
    try:
        lines = options.commands.dvc(*command, *flags, stage.address)
    except StageFailed as error:
        if options.shared and COMMAND_FAILED not in str(error) and not options.commands.ended.is_set():
            raise RemoteFailed(str(error)) from None
        raise
    if options.shared and not all(Path(path).exists() for path in stage.metrics):  # --pull considers the stage complete
        lines += options.commands.dvc(*command, stage.address)
    return lines


def _push(stage: Stage, commands: Commands) -> None:
    """Copy the stage's outputs to the remote, so that another machine fetches them instead of running the stage.

    Includes metrics, which `dvc push` leaves to git (`cache: false`); DVC has a copy of them in its cache.

    Raises:
        RemoteFailed: if the remote does not accept them.
    """
    try:
        commands.dvc("--wait-for-lock", "push", "--run-cache", stage.address)
        with Repo(".", _wait_for_lock=True) as repo:
            with repo.lock:  # the dvc of another stage may be writing dvc.lock
                outs = [out.hash_info for s in repo.stage.collect(stage.address) for out in s.outs if not out.use_cache]
            repo.cloud.push(outs)
    except (StageFailed, DvcException, OSError) as error:
        raise error if commands.ended.is_set() else RemoteFailed(f"{stage.address} is done, but could not be pushed: {error}") from None

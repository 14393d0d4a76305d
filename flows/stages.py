"""DVC stages as Prefect tasks: what the flows share.

DVC alone knows the stages, their order and whether they are up to date; a task is one `dvc repro --single-item`,
so `dvc repro` after a flow, and a flow after `dvc repro`, have nothing to do. Several at a time are safe: dvc
waits for the repository's lock, gives it up only while the stage's own command runs, and reads dvc.lock again
before it adds to it.

Prefect's global concurrency limits `trainings` and `gpu`, where there are such when a flow starts, hold for all flows
and workers of that server together: `trainings` for every stage, so that two workers of one machine do not train at
once, `gpu` for the stages that run networks, so that no more of them run than there are GPUs:

    prefect gcl create trainings --limit 1
    prefect gcl create gpu --limit 4

A place is given back when its stage ends, however that is; if the whole process is killed, Prefect takes it back
after 5 minutes. Should the server be killed too, it forgets who held a place: `prefect gcl update trainings
--active-slots 0` frees all.

A stage that fails has failed; nothing of it is tried again. What is tried again, after `DELAYS`, is a stage that could
not be run or whose outputs could not be stored: the DVC remote or Prefect's server did not answer.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import networkx
import typer
from dvc.exceptions import DvcException
from dvc.repo import Repo
from prefect import State, Task, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

from nas.runtime import processes
from nas.tracking import provenance

# No start_new_session for the child: a worker cancels by signalling the process group.
DVC = "import sys; from nas.tracking.provenance import die_with_parent; die_with_parent(); from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
LAST_LINES = 20  # of a failed command, in the error
LIMIT, GPU = "trainings", "gpu"
COMPUTE = ("runtime", "latency")  # sections of params.yaml: a stage that reads one runs networks on the device
LOCKED = 423  # HTTP status: every place under a limit is taken
ASK_AGAIN = 5.0  # seconds
DELAYS = (10, 60, 300)  # seconds before a stage whose surroundings failed is tried again
OWN = "failed to run:"  # what dvc says when a stage's own command failed

Overrides = dict[str, str | int | float | bool]


class StageFailed(RuntimeError):
    """A dvc command failed; the message ends with its last lines."""


class RemoteFailed(StageFailed):
    """A dvc command failed, and not by a stage's own fault: the remote did not answer."""


@dataclass(frozen=True)
class Stage:
    """What a flow has to know about a stage."""

    address: str  # `train` or `other/dvc.yaml:train@uniform-0`
    metrics: tuple[str, ...] = ()  # JSON files
    needs: tuple[str, ...] = ()  # addresses of the stages that it depends on
    computes: bool = False  # runs networks, on a GPU where there is one

    @property
    def limits(self) -> tuple[str, ...]:
        """Concurrency limits that hold for it, in the order in which every stage takes its places."""
        return (LIMIT, GPU) if self.computes else (LIMIT,)


@dataclass
class Row:
    """One line of the table at the end."""

    stage: str
    result: str = "not run"  # or ran, cached, failed
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    ran: bool = False  # at the last try or one before it

    def cells(self) -> dict[str, str | float]:
        figures = ", ".join(f"{k} {v:.4g}" for k, v in self.metrics.items())
        return {"stage": self.stage, "result": self.result, "seconds": round(self.seconds, 1), "metrics": figures}


def addresses(targets: list[str], pipeline: str) -> list[str]:
    """Targets as dvc takes them: a name alone is a stage, or all stages of a matrix, of the pipeline; none is all of it.

    Args:
        pipeline: a dvc.yaml.
    """
    return [target if ":" in target else f"{pipeline}:{target}" for target in targets] or [pipeline]


def plan(targets: list[str]) -> list[Stage]:
    """The targets (none: all of dvc.yaml) and the stages before them, each after those it depends on.

    Args:
        targets: a stage, all stages of a matrix, or a dvc.yaml file with all of its stages.

    Raises:
        ValueError: for a target that DVC doesn't know.
    """
    with Repo(".") as repo:
        try:
            wanted = [stage for target in targets or ["dvc.yaml"] for stage in repo.stage.collect(target)]
        except DvcException as error:
            known = sorted(stage.addressing for stage in repo.index.stages)
            raise ValueError(f"no such target: {error}; the stages are {known}") from None
        graph = repo.index.graph  # an edge leads from a stage to one it depends on
        needed = set(wanted).union(*(networkx.descendants(graph, stage) for stage in wanted))
        order = networkx.lexicographical_topological_sort(graph.subgraph(needed).reverse(), key=lambda stage: stage.addressing)
        return [
            Stage(
                stage.addressing,
                tuple(os.path.relpath(metric.fs_path) for metric in stage.metrics),
                tuple(sorted(other.addressing for other in graph.successors(stage))),
                any(key.split(".")[0] in COMPUTE for dep in stage.params for key in dep.params),
            )
            for stage in order
        ]


class Commands:
    """The dvc commands of one flow run: started by any of its threads, ended together."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()

    def dvc(self, *args: str) -> list[str]:
        """Run a dvc command, its lines in the run's log as they come; they are also returned.

        Raises:
            StageFailed: if it fails, or if all are ended.
        """
        logger, lines = get_run_logger(), []
        with self._started(args) as process:
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    logger.info(lines[-1])
            except BaseException:
                self.end()
                process.stdout.read()  # until the stage has ended, too
                raise
        if process.returncode:
            raise StageFailed(f"`dvc {' '.join(args)}` failed:\n" + "\n".join(lines[-LAST_LINES:]))
        return lines

    def end(self) -> None:
        """Terminate those that run, and start no more; a stage follows its dvc."""
        with self._lock:
            self.ended.set()
            for process in self._running:
                process.terminate()

    @contextmanager
    def _started(self, args: tuple[str, ...]) -> Iterator[subprocess.Popen]:
        environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            # a worker may not have activated the environment
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(provenance.__file__).parents[1]), os.environ.get("PYTHONPATH")])),
            "NAS_PIPELINE": str(flow_run.id),
            "NAS_PIPELINE_OWNER": processes.process_token(),
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
        }
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace", "env": environment}
        with self._lock:
            if self.ended.is_set():
                raise StageFailed(f"`dvc {' '.join(args)}` was not started: the run ends")
            process = subprocess.Popen([sys.executable, "-c", DVC, *args], **options)
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)


@dataclass(frozen=True)
class Settings:
    """How the stages of a flow run are run."""

    commands: Commands
    force: bool  # run what is up to date as well
    shared: bool  # a remote is there, to pull from and push to
    limits: frozenset[str]  # those of `trainings` and `gpu` that there are


def outcome(stage: Stage, lines: list[str]) -> str:
    """What dvc's lines say: the stage ran, or its outputs were up to date or in the cache."""
    return "ran" if f"Running stage '{stage.address}':" in lines else "cached"


def remote_set() -> bool:
    """Whether a DVC remote is configured to push to by default."""
    with Repo(".") as repo:
        return "remote" in repo.config["core"]


def limits_set() -> frozenset[str]:
    """Which of the limits the Prefect server has; for one that it has not, `concurrency` would only warn at every stage."""
    found = set()
    with get_client(sync_client=True) as client:
        for name in (LIMIT, GPU):
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                continue
            found.add(name)
    return frozenset(found)


@contextmanager
def places(names: Iterable[str], commands: Commands) -> Iterator[None]:
    """Wait for a place under each limit, one after the other, and hold them.

    Raises:
        StageFailed: if the run ends meanwhile.
    """
    with ExitStack() as held:
        for name in names:
            told = False
            while True:
                try:
                    held.enter_context(concurrency(name, max_retries=0))  # its own waiting can't be ended
                    break
                except ConcurrencySlotAcquisitionError as error:
                    if getattr(getattr(error.__cause__, "response", None), "status_code", None) != LOCKED:
                        raise
                    if not told:
                        get_run_logger().info(f"Waiting for a place under the limit {name!r}: see `prefect gcl inspect {name}`")
                        told = True
                    if commands.ended.wait(ASK_AGAIN):
                        raise StageFailed(f"no place under the limit {name!r} before the run ended") from None
        yield


@contextmanager
def timed(row: Row) -> Iterator[None]:
    """Note the seconds, and "failed" if it does."""
    began, row.result = time.monotonic(), "failed"
    try:
        yield
    finally:
        row.seconds = time.monotonic() - began


@contextmanager
def table(rows: Iterable[Row], key: str) -> Iterator[None]:
    """At the end, however it ends, keep the rows as a Prefect artifact."""
    try:
        yield
    finally:
        create_table_artifact([row.cells() for row in rows], key=key, description="Stages of this run")


def numbers(files: Iterable[dict]) -> dict[str, float]:
    """The figures among the top-level entries of metrics files."""
    return {k: v for file in files for k, v in file.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def surroundings(task: Task, run: TaskRun, state: State) -> bool:
    """Whether what failed was not the stage: the remote or Prefect's server. The form that Prefect asks `run_stage` in."""
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
    retries=len(DELAYS),
    retry_delay_seconds=list(DELAYS),
    retry_condition_fn=surroundings,
)
def run_stage(stage: Stage, row: Row, settings: Settings) -> None:
    """Bring one stage up to date, and fill in its row.

    Raises:
        StageFailed: if dvc does.
    """
    with places((name for name in stage.limits if name in settings.limits), settings.commands), timed(row):
        row.ran |= outcome(stage, _repro(stage, settings)) == "ran"
        if settings.shared:
            _push(stage, settings.commands)
        row.result = "ran" if row.ran else "cached"
        row.metrics = numbers(json.loads(Path(path).read_text()) for path in stage.metrics)


def changes(words: list[str] | None) -> Overrides:
    """`KEY=VALUE` words of a command line.

    Raises:
        typer.BadParameter: for a word without a value.
    """
    if wrong := [word for word in words or [] if "=" not in word]:
        raise typer.BadParameter(f"{wrong[0]!r}: KEY=VALUE is needed, e.g. --set train.epochs=2")
    return dict(word.split("=", 1) for word in words or [])


def run_experiment(targets: list[str], overrides: Overrides, force: bool, key: str) -> None:
    """All stages that the targets need with other parameters, as one `dvc exp run` in a copy of the tree; `dvc exp show` lists it.

    Args:
        overrides: e.g. {"train.epochs": 2}, or {"other/params.yaml:train.epochs": 2} for another file than params.yaml.
        key: of the table.
    """
    stages = plan(targets)
    rows = [Row(stage.address) for stage in stages]
    name = f"{flow_run.name}-{flow_run.run_count}"  # a flow run that is started again needs another name
    whole = Row(f"experiment {name}")
    with table([whole, *rows], key):
        with timed(whole):
            lines, whole.result = _run_experiment(name, targets, overrides, force), "ran"
        found = _experiment_metrics(name)
        for stage, row in zip(stages, rows):
            row.result = outcome(stage, lines)
            row.metrics = numbers(found[path] for path in stage.metrics if path in found)


@task(name="run_experiment", cache_policy=NO_CACHE, retries=0)
def _run_experiment(name: str, targets: list[str], overrides: Overrides, force: bool) -> list[str]:
    """The lines that dvc printed."""
    changes = [
        word
        for key, value in overrides.items()
        for word in ("--set-param", f"{key}={json.dumps(value) if isinstance(value, bool) else value}")
    ]
    forced, commands, limits = ["--force"] if force else [], Commands(), limits_set()
    with places((name for name in (LIMIT, GPU) if name in limits), commands):
        return commands.dvc("--wait-for-lock", "exp", "run", "--temp", "--name", name, *changes, *forced, *targets)


def _experiment_metrics(name: str) -> dict[str, dict]:
    """Path -> contents of the metrics files of a finished experiment; without those that git ignores, which no experiment keeps."""
    with Repo(".") as repo:
        files = repo.metrics.show(revs=[name])[name]["data"]
    return {path: file["data"] for path, file in files.items() if "data" in file}


def _repro(stage: Stage, settings: Settings) -> list[str]:
    """What dvc printed; with a remote, what is there is fetched instead of made."""
    command = ["--wait-for-lock", "repro", "--single-item"]
    options = [*(["--force"] if settings.force else []), *(["--pull"] if settings.shared else [])]
    try:
        lines = settings.commands.dvc(*command, *options, stage.address)
    except StageFailed as error:
        if settings.shared and OWN not in str(error) and not settings.commands.ended.is_set():
            raise RemoteFailed(str(error)) from None
        raise
    if not settings.shared:
        return lines
    if not all(Path(m).exists() for m in stage.metrics):  # --pull takes a stage without them for complete
        lines += settings.commands.dvc(*command, stage.address)
    return lines


def _push(stage: Stage, commands: Commands) -> None:
    """Copy what the stage made to the remote, so that another machine can take it instead of running the stage.

    That takes the metrics as well, which `dvc push` leaves to git (`cache: false`); DVC has a copy of them in its cache.

    Raises:
        RemoteFailed: if the remote does not take it.
    """
    try:
        commands.dvc("--wait-for-lock", "push", "--run-cache", stage.address)
        with Repo(".", _wait_for_lock=True) as repo:
            with repo.lock:  # another stage's dvc may be writing dvc.lock
                outs = [out.hash_info for s in repo.stage.collect(stage.address) for out in s.outs if not out.use_cache]
            repo.cloud.push(outs)
    except (StageFailed, DvcException, OSError) as error:
        raise error if commands.ended.is_set() else RemoteFailed(f"{stage.address} is done, but could not be pushed: {error}") from None

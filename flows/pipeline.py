"""The pipeline of dvc.yaml as a Prefect flow: one task a stage, each a `dvc repro --single-item`.

DVC alone knows the stages, their order and whether they are up to date; `dvc repro` after the flow, and the
flow after `dvc repro`, have nothing to do. With overrides the whole pipeline is one `dvc exp run --temp`: it
runs in a copy, so params.yaml and the outputs here stay as they are, and `dvc exp show` lists the result.
With a DVC remote, a stage pulls what it needs and pushes what it made, so any machine's worker can run it.

    python -m flows.pipeline [--target STAGE ...] [--set KEY=VALUE ...] [--force]
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import networkx
import typer
from dvc.exceptions import DvcException
from dvc.repo import Repo
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from nas import provenance

# No start_new_session for the child: a worker cancels by signalling the process group.
DVC = "import sys; from nas.provenance import die_with_parent; die_with_parent(); from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
LAST_LINES = 20  # of a failed command, in the error


class StageFailed(RuntimeError):
    """A dvc command failed; the message ends with its last lines."""


@dataclass(frozen=True)
class Stage:
    """What the flow has to know about a stage."""

    address: str  # `train` or `other/dvc.yaml:train`
    metrics: tuple[str, ...] = ()  # JSON files


@dataclass
class Row:
    """One line of the table at the end."""

    stage: str
    result: str = "not run"  # or ran, cached, failed
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def cells(self) -> dict[str, str | float]:
        figures = ", ".join(f"{k} {v:.4g}" for k, v in self.metrics.items())
        return {"stage": self.stage, "result": self.result, "seconds": round(self.seconds, 1), "metrics": figures}


def plan(targets: list[str]) -> list[Stage]:
    """The targets (none: all of dvc.yaml) and the stages before them, each after those it depends on.

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
        return [Stage(s.addressing, tuple(os.path.relpath(m.fs_path) for m in s.metrics)) for s in order]


def dvc(*args: str) -> list[str]:
    """Run a dvc command, its lines in the run's log as they come; they are also returned.

    Raises:
        StageFailed: if it fails.
    """
    logger, lines = get_run_logger(), []
    environment = os.environ | {
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # a worker may not have activated the environment
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(provenance.__file__).parents[1]), os.environ.get("PYTHONPATH")])),
        "NAS_PIPELINE": str(flow_run.id),
        "NAS_PIPELINE_OWNER": provenance.process_token(),
        "PREFECT__FLOW_RUN_ID": str(flow_run.id),
    }
    command = [sys.executable, "-c", DVC, *args]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace", "env": environment}
    with subprocess.Popen(command, **options) as process:
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                logger.info(lines[-1])
        except BaseException:
            process.terminate()  # the stage follows dvc
            process.stdout.read()  # until it has
            raise
    if process.returncode:
        raise StageFailed(f"`dvc {' '.join(args)}` failed:\n" + "\n".join(lines[-LAST_LINES:]))
    return lines


def repro(stage: Stage, *options: str) -> list[str]:
    return dvc("--wait-for-lock", "repro", "--single-item", *options, stage.address)


def outcome(stage: Stage, lines: list[str]) -> str:
    """What dvc's lines say: the stage ran, or its outputs were up to date or in the cache."""
    return "ran" if f"Running stage '{stage.address}':" in lines else "cached"


def push(stage: Stage) -> None:
    """Copy what the stage made to the remote, so that another machine can take it instead of running the stage.

    That takes the metrics as well, which `dvc push` leaves to git (`cache: false`); DVC has a copy of them in its cache.
    """
    dvc("--wait-for-lock", "push", "--run-cache", stage.address)
    with Repo(".") as repo:
        repo.cloud.push([out.hash_info for s in repo.stage.collect(stage.address) for out in s.outs if not out.use_cache])


def remote_set() -> bool:
    """Whether a DVC remote is configured to push to by default."""
    with Repo(".") as repo:
        return "remote" in repo.config["core"]


@contextmanager
def timed(row: Row) -> Iterator[None]:
    """Note the seconds, and "failed" if it does."""
    began, row.result = time.monotonic(), "failed"
    try:
        yield
    finally:
        row.seconds = time.monotonic() - began


@contextmanager
def table(rows: list[Row]) -> Iterator[None]:
    """At the end, however it ends, keep the rows as a Prefect artifact."""
    try:
        yield
    finally:
        create_table_artifact([row.cells() for row in rows], key="pipeline", description="Stages of this run")


def numbers(files: Iterable[dict]) -> dict[str, float]:
    """The figures among the top-level entries of metrics files."""
    return {k: v for file in files for k, v in file.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def experiment_metrics(name: str) -> dict[str, dict]:
    """Path -> contents of the metrics files of a finished experiment."""
    with Repo(".") as repo:
        return {path: file["data"] for path, file in repo.metrics.show(revs=[name])[name]["data"].items()}


@task(task_run_name="{stage.address}", cache_policy=NO_CACHE, retries=0)
def run_stage(stage: Stage, force: bool, shared: bool) -> str:
    """Bring one stage up to date; whether it ran.

    Args:
        shared: a remote is there, to pull from and push to.
    """
    forced = ["--force"] if force else []
    lines = repro(stage, *forced, *(["--pull"] if shared else []))
    if shared and not all(Path(m).exists() for m in stage.metrics):  # --pull takes a stage without them for complete
        lines += repro(stage)
    if shared:
        push(stage)
    return outcome(stage, lines)


@task(cache_policy=NO_CACHE, retries=0)
def run_experiment(name: str, targets: list[str], overrides: dict[str, str | int | float | bool], force: bool) -> list[str]:
    """The whole pipeline with other parameters, in a copy of the tree; the lines that dvc printed."""
    settings = [
        word
        for key, value in overrides.items()
        for word in ("--set-param", f"{key}={json.dumps(value) if isinstance(value, bool) else value}")
    ]
    return dvc("--wait-for-lock", "exp", "run", "--temp", "--name", name, *settings, *(["--force"] if force else []), *targets)


@flow(name="pipeline")
def pipeline(
    targets: list[str] | None = None,
    overrides: dict[str, str | int | float | bool] | None = None,
    force: bool = False,
    share: bool = True,
) -> None:
    """Build the stages of dvc.yaml that are out of date.

    Args:
        targets: stages to build, with those they depend on; none means all.
        overrides: parameters to change, e.g. {"train.epochs": 2}; runs as an experiment beside the workspace.
        force: run the stages even if they are up to date.
        share: pull from and push to the DVC remote, where one is configured (an experiment is not shared).
    """
    provenance.require_git()
    targets, shared = targets or [], share and remote_set()
    stages = plan(targets)
    rows = [Row(stage.address) for stage in stages]
    if overrides:
        name = f"{flow_run.name}-{flow_run.run_count}"  # a flow run that is started again needs another name
        whole = Row(f"experiment {name}")
        with table([whole, *rows]):
            with timed(whole):
                lines, whole.result = run_experiment(name, targets, overrides, force), "ran"
            found = experiment_metrics(name)
            for stage, row in zip(stages, rows):
                row.result = outcome(stage, lines)
                row.metrics = numbers(found[path] for path in stage.metrics)
        return
    with table(rows):
        for stage, row in zip(stages, rows):
            with timed(row):
                row.result = run_stage(stage, force, shared)
                row.metrics = numbers(json.loads(Path(path).read_text()) for path in stage.metrics)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    target: Annotated[list[str] | None, typer.Option(help="Stage to build, with those it depends on; all if not given.")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter to change, in an experiment.")] = None,
    force: Annotated[bool, typer.Option(help="Run stages even if they are up to date.")] = False,
    share: Annotated[bool, typer.Option(help="Pull from and push to the DVC remote, where one is configured.")] = True,
) -> None:
    """Run the pipeline under Prefect; without a server one is started for as long as it takes."""
    if wrong := [c for c in change or [] if "=" not in c]:
        raise typer.BadParameter(f"{wrong[0]!r}: KEY=VALUE is needed, e.g. --set train.epochs=2")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the stage and the server end with this
    try:
        pipeline(target, dict(c.split("=", 1) for c in change or []), force, share)
    except (StageFailed, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app()

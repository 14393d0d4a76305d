"""A pipeline as a Prefect flow: the main one, or one of pipelines/ or studies/. One task per stage.

A task is one `dvc repro --single-item`. With overrides the whole pipeline is one `dvc exp run --temp`: it runs in a
copy, so params.yaml and the outputs stay as they are, and `dvc exp show` lists the result. With a DVC remote, a stage
pulls its inputs and pushes its outputs, so the worker of any machine can run it.

    python -m flows.pipeline [--name PIPELINE] [--target STAGE ...] [--set KEY=VALUE ...] [--force]
"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from flows.commands import Commands, Overrides, StageFailed, limits_set, parse_overrides, remote_set
from flows.stages import RunOptions, StageResult, addresses, plan, result_table, run_experiment, run_stage
from nas.runtime import processes

MAIN = "main"
FOLDERS = (Path("pipelines"), Path("studies"))


def dvc_file(name: str) -> str:
    """The dvc.yaml of a pipeline.

    Raises:
        ValueError: for an unknown name.
    """
    files = {MAIN: Path("dvc.yaml")} | {
        file.parent.name: file for file in sorted(f for folder in FOLDERS for f in folder.glob("*/dvc.yaml"))
    }
    if name not in files:
        raise ValueError(f"unknown pipeline {name!r}; the pipelines are {list(files)}")
    return str(files[name])


@flow(name="pipeline")
def pipeline(
    targets: list[str] | None = None,
    overrides: Overrides | None = None,
    force: bool = False,
    share: bool = True,
    name: str = MAIN,
) -> None:
    """Run the stages of a pipeline that are out of date.

    Args:
        targets: stages to run, with their dependencies; none means all.
        overrides: parameters to change, e.g. {"train.epochs": 2}, or {"pipelines/tf_nas/params.yaml:train.learning_rate": 0.1};
            runs an experiment in a copy of the workspace.
        force: run the stages even if they are up to date.
        share: pull from and push to the DVC remote, if one is configured; experiments are not shared.
        name: "main", or a folder of pipelines/ or studies/, e.g. "tf_nas" or "strategies".

    Raises:
        ValueError: for an unknown pipeline or stage.
        StageFailed: if a stage fails.
    """
    processes.require_git()
    targets = addresses(targets or [], dvc_file(name))
    if overrides:
        run_experiment(targets, overrides, force, key="pipeline")
        return
    stages = plan(targets)
    results = [StageResult(stage.address) for stage in stages]
    options = RunOptions(Commands(), force, share and remote_set(), limits_set())
    with result_table(results, key="pipeline"):
        for stage, result in zip(stages, results):
            run_stage(stage, result, options)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    target: Annotated[list[str] | None, typer.Option(help="Stage to run, with its dependencies; repeatable; default: all.")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter to change; repeatable.")] = None,
    force: Annotated[bool, typer.Option(help="Run stages even if they are up to date.")] = False,
    share: Annotated[bool, typer.Option(help="Pull from and push to the DVC remote, if one is configured.")] = True,
    name: Annotated[str, typer.Option(help="Pipeline: main, or a folder of pipelines/ or studies/, e.g. tf_nas.")] = MAIN,
) -> None:
    """Run a pipeline under Prefect; without a server, a temporary one is started."""
    overrides = parse_overrides(change)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the stage and the server end with this
    try:
        pipeline(target, overrides, force, share, name)
    except (StageFailed, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app()

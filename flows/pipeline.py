"""A pipeline as a Prefect flow, the main one or one of pipelines/ or studies/: one task a stage, each a `dvc repro --single-item`.

With overrides the whole pipeline is one `dvc exp run --temp`: it runs in a copy, so params.yaml and the outputs
here stay as they are, and `dvc exp show` lists the result. With a DVC remote, a stage pulls what it needs and
pushes what it made, so any machine's worker can run it.

    python -m flows.pipeline [--name PIPELINE] [--target STAGE ...] [--set KEY=VALUE ...] [--force]
"""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from prefect import flow

from flows.stages import (
    Commands,
    Overrides,
    Row,
    Settings,
    StageFailed,
    addresses,
    changes,
    limits_set,
    plan,
    remote_set,
    run_experiment,
    run_stage,
    table,
)
from nas.runtime import processes

MAIN = "main"
FOLDERS = (Path("pipelines"), Path("studies"))


def dvc_file(name: str) -> str:
    """The dvc.yaml of a pipeline.

    Raises:
        ValueError: for a name that there is not.
    """
    files = {MAIN: Path("dvc.yaml")} | {
        file.parent.name: file for file in sorted(f for folder in FOLDERS for f in folder.glob("*/dvc.yaml"))
    }
    if name not in files:
        raise ValueError(f"there is no pipeline {name!r}; there are {list(files)}")
    return str(files[name])


@flow(name="pipeline")
def pipeline(
    targets: list[str] | None = None,
    overrides: Overrides | None = None,
    force: bool = False,
    share: bool = True,
    name: str = MAIN,
) -> None:
    """Build the stages of a pipeline that are out of date.

    Args:
        targets: stages to build, with those they depend on; none means all.
        overrides: parameters to change, e.g. {"train.epochs": 2}, or {"pipelines/tf_nas/params.yaml:train.learning_rate": 0.1};
            runs as an experiment beside the workspace.
        force: run the stages even if they are up to date.
        share: pull from and push to the DVC remote, where one is configured (an experiment is not shared).
        name: of the pipeline: "main", or a folder of pipelines/ or studies/, e.g. "tf_nas".

    Raises:
        ValueError: for a pipeline or a stage that there is not.
        StageFailed: if a stage did.
    """
    processes.require_git()
    targets = addresses(targets or [], dvc_file(name))
    if overrides:
        run_experiment(targets, overrides, force, key="pipeline")
        return
    stages = plan(targets)
    rows = [Row(stage.address) for stage in stages]
    settings = Settings(Commands(), force, share and remote_set(), limits_set())
    with table(rows, key="pipeline"):
        for stage, row in zip(stages, rows):
            run_stage(stage, row, settings)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    target: Annotated[list[str] | None, typer.Option(help="Stage to build, with those it depends on; all if not given.")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter to change, in an experiment.")] = None,
    force: Annotated[bool, typer.Option(help="Run stages even if they are up to date.")] = False,
    share: Annotated[bool, typer.Option(help="Pull from and push to the DVC remote, where one is configured.")] = True,
    name: Annotated[str, typer.Option(help="Of the pipeline: main, or a folder of pipelines/ or studies/, e.g. tf_nas.")] = MAIN,
) -> None:
    """Run a pipeline under Prefect; without a server one is started for as long as it takes."""
    overrides = changes(change)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the stage and the server end with this
    try:
        pipeline(target, overrides, force, share, name)
    except (StageFailed, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app()

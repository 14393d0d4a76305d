"""The comparison of strategies as a Prefect flow: stages of a dvc.yaml that do not wait for each other as mapped tasks.

A stage is submitted as soon as those it depends on are done, and `at_once` of them run at a time: 1 by default,
because trainings that share a machine only slow each other down. A stage that fails takes with it what depends on
it and nothing else; what is finished is kept, and the next run does the rest. Stages of other dvc.yaml files that
are needed, e.g. `split`, are brought up to date as well.

    python -m flows.compare [--at-once N] [--target STAGE ...] [--set KEY=VALUE ...] [--force]
"""

import signal
import sys
from typing import Annotated

import typer
from prefect import flow, unmapped
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.stages import (
    Commands,
    Overrides,
    Row,
    Settings,
    Stage,
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

PIPELINE = "studies/strategies/dvc.yaml"


def run_all(stages: list[Stage], rows: list[Row], at_once: int, settings: Settings) -> dict[str, Exception]:
    """Run stages, `at_once` of them at a time, each after those that it needs.

    Returns:
        Address -> error of the stages that failed; what needs them was not run.
    """
    waiting = dict(zip(stages, rows))
    running, done, failures = {}, set(), {}
    # A runner of its own: the flow's has its number of workers before the parameters are known.
    with ThreadPoolTaskRunner(max_workers=at_once) as runner:
        try:
            while True:
                ready = [stage for stage in waiting if done.issuperset(stage.needs)]
                if ready:
                    parameters = {"stage": ready, "row": [waiting.pop(stage) for stage in ready], "settings": unmapped(settings)}
                    running |= zip(runner.map(run_stage, parameters), ready)
                if not running:
                    return failures
                future = next(as_completed(list(running)))
                stage = running.pop(future)
                try:
                    future.result()
                    done.add(stage.address)
                except Exception as error:  # whatever a task raised: what does not need this stage is still to be run
                    failures[stage.address] = error
        except BaseException:
            settings.commands.end()  # or the runner would wait for them
            raise


@flow(name="compare")
def compare(
    targets: list[str] | None = None,
    overrides: Overrides | None = None,
    at_once: Annotated[int, Field(ge=1)] = 1,
    force: bool = False,
    share: bool = True,
    pipeline: str = PIPELINE,
) -> None:
    """Build the stages of the comparison that are out of date.

    Args:
        targets: stages to build, with those they depend on, e.g. ["train@uniform-0"]; none means all.
        overrides: parameters to change, e.g. {"train.epochs": 2}; runs as an experiment beside the workspace, one stage at a time.
        at_once: stages that run at a time.
        force: run the stages even if they are up to date.
        share: pull from and push to the DVC remote, where one is configured (an experiment is not shared).
        pipeline: dvc.yaml with the stages.

    Raises:
        StageFailed: if any stage did, when all that do not depend on it are done.
    """
    processes.require_git()
    targets = addresses(targets or [], pipeline)
    if overrides:
        run_experiment(targets, overrides, force, key="compare")
        return
    stages = plan(targets)
    rows = [Row(stage.address) for stage in stages]
    settings = Settings(Commands(), force, share and remote_set(), limits_set())
    with table(rows, key="compare"):
        failures = run_all(stages, rows, at_once, settings)
    if failures:
        not_run = sum(row.result == "not run" for row in rows)
        told = "\n\n".join(f"{address}: {error}" for address, error in failures.items())
        raise StageFailed(f"{len(failures)} of {len(stages)} stages failed, {not_run} that depend on them were not run\n\n{told}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    at_once: Annotated[int, typer.Option(min=1, help="Stages that run at a time.")] = 1,
    target: Annotated[list[str] | None, typer.Option(help="Stage to build, with those it depends on; all if not given.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Parameter to change, in an experiment; FILE:KEY=VALUE beside params.yaml."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Run stages even if they are up to date.")] = False,
    share: Annotated[bool, typer.Option(help="Pull from and push to the DVC remote, where one is configured.")] = True,
    pipeline: Annotated[str, typer.Option(help="dvc.yaml with the stages.")] = PIPELINE,
) -> None:
    """Run the comparison under Prefect; without a server one is started for as long as it takes."""
    overrides = changes(change)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the stages and the server end with this
    try:
        compare(target, overrides, at_once, force, share, pipeline)
    except (StageFailed, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app()

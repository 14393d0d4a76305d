"""The study of sampling strategies as a Prefect flow: independent stages of a dvc.yaml run as mapped tasks.

A stage is submitted as soon as its dependencies are done, and at most `at_once` stages run at a time: 1 by default,
because trainings on one machine slow each other down. If a stage fails, only the stages that depend on it are not run;
the next run continues with what is missing. Dependencies in other dvc.yaml files, e.g. `split`, are brought up to date
as well.

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

from flows.commands import Commands, Overrides, StageFailed, limits_set, parse_overrides, remote_set
from flows.stages import RunOptions, Stage, StageResult, addresses, plan, result_table, run_experiment, run_stage
from nas.runtime import processes

PIPELINE = "studies/strategies/dvc.yaml"


def run_all(stages: list[Stage], results: list[StageResult], at_once: int, options: RunOptions) -> dict[str, Exception]:
    """Run stages after their dependencies, at most `at_once` at a time.

    Returns:
        Address -> error of the failed stages; stages that depend on them were not run.
    """
    waiting = dict(zip(stages, results))
    running, done, failures = {}, set(), {}
    # Not the flow's own runner, whose number of workers is fixed before the parameters are known.
    with ThreadPoolTaskRunner(max_workers=at_once) as runner:
        try:
            while True:
                ready = [stage for stage in waiting if done.issuperset(stage.needs)]
                if ready:
                    parameters = {"stage": ready, "result": [waiting.pop(stage) for stage in ready], "options": unmapped(options)}
                    running |= zip(runner.map(run_stage, parameters), ready)
                if not running:
                    return failures
                future = next(as_completed(list(running)))
                stage = running.pop(future)
                try:
                    future.result()
                    done.add(stage.address)
                except Exception as error:  # of any kind: stages that do not depend on this one still run
                    failures[stage.address] = error
        except BaseException:
            options.commands.end()  # or the runner would wait for them
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
    """Run the stages of the study that are out of date.

    Args:
        targets: stages to run, with their dependencies, e.g. ["train@uniform-0"]; none means all.
        overrides: parameters to change, e.g. {"train.epochs": 2}; runs an experiment in a copy of the workspace, one stage at a time.
        at_once: maximum number of stages at a time.
        force: run the stages even if they are up to date.
        share: pull from and push to the DVC remote, if one is configured; experiments are not shared.
        pipeline: dvc.yaml with the stages.

    Raises:
        StageFailed: if a stage fails, after all stages that do not depend on it.
    """
    processes.require_git()
    targets = addresses(targets or [], pipeline)
    if overrides:
        run_experiment(targets, overrides, force, key="compare")
        return
    stages = plan(targets)
    results = [StageResult(stage.address) for stage in stages]
    options = RunOptions(Commands(), force, share and remote_set(), limits_set())
    with result_table(results, key="compare"):
        failures = run_all(stages, results, at_once, options)
    if failures:
        not_run = sum(result.result == "not run" for result in results)
        errors = "\n\n".join(f"{address}: {error}" for address, error in failures.items())
        raise StageFailed(f"{len(failures)} of {len(stages)} stages failed, {not_run} that depend on them were not run\n\n{errors}")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    at_once: Annotated[int, typer.Option(min=1, help="Maximum number of stages at a time.")] = 1,
    target: Annotated[list[str] | None, typer.Option(help="Stage to run, with its dependencies; repeatable; default: all.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Parameter to change, in an experiment; FILE:KEY=VALUE for another file."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Run stages even if they are up to date.")] = False,
    share: Annotated[bool, typer.Option(help="Pull from and push to the DVC remote, if one is configured.")] = True,
    pipeline: Annotated[str, typer.Option(help="dvc.yaml with the stages.")] = PIPELINE,
) -> None:
    """Run the study under Prefect; without a server, a temporary one is started."""
    overrides = parse_overrides(change)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the stages and the server end with this
    try:
        compare(target, overrides, at_once, force, share, pipeline)
    except (StageFailed, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app()

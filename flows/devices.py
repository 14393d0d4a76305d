"""Latency lookup table of another machine: measured on that device, stored where the search runs.

A Prefect worker on the device runs the stage `latency` as a DVC experiment, so that its working tree does not change.
The table returns as a Prefect artifact, `latency-NAME`, whose versions the server keeps, and is written to
devices/NAME.json under DVC. On the device (a checkout at the same path, or change `pull` in prefect.yaml):

    prefect worker start --pool local --work-queue pi4

On this machine, with the same PREFECT_API_URL:

    python -m flows.devices --name pi4 --queue pi4 --set latency.backend.threads=4

Without --queue this machine is measured. To search for the device, set `search.latency_table: devices/pi4.json`.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import dvc.api
import typer
from prefect import flow
from prefect.artifacts import Artifact, create_markdown_artifact
from prefect.deployments import run_deployment
from prefect.runtime import flow_run

from flows.commands import Commands, Overrides, StageFailed, parse_overrides, remote_set, set_params
from flows.stages import numeric_entries
from nas.runtime import processes

STAGE = "latency"
TABLE, METRICS = "outputs/latency/table.json", "outputs/latency/metrics.json"
FOLDER = Path("devices")
DEPLOYMENT = "devices/measure"
JSON_BLOCK = re.compile(r"^```json\n(.*)\n```$", re.DOTALL | re.MULTILINE)


@flow(name="devices")
def measure(name: str, overrides: Overrides | None = None) -> str:
    """Measure the latency table of the machine that runs this flow.

    Args:
        name: of the device, used for the artifact: lower-case letters, digits and dashes.
        overrides: parameters to change, e.g. {"latency.backend.threads": 4}.

    Returns:
        The table as JSON.

    Raises:
        ValueError: for a name that an artifact cannot have.
        StageFailed: if dvc fails.
    """
    check_name(name)
    processes.require_git()
    experiment = f"{STAGE}-{name}-{flow_run.name}-{flow_run.run_count}"
    changes = set_params(overrides or {})
    Commands().dvc("--wait-for-lock", "exp", "run", "--temp", "--single-item", "--force", "--name", experiment, *changes, STAGE)
    table, metrics = (dvc.api.read(path, rev=experiment) for path in (TABLE, METRICS))
    Commands().dvc("exp", "remove", experiment)
    create_markdown_artifact(to_markdown(name, table, json.loads(metrics)), key=artifact_key(name), description=f"Latency table of {name}")
    return table


def to_markdown(name: str, table: str, metrics: dict) -> str:
    """The artifact: a summary, then the table as JSON."""
    setting = json.loads(table)
    facts = {k: setting[k] for k in ("device", "backend", "threads", "batch", "measured") if k in setting}
    rows = [f"| {key} | {value} |" for key, value in (facts | {k: f"{v:.4g}" for k, v in numeric_entries([metrics]).items()}).items()]
    return "\n".join([f"# Latency of {name}", "", "| | |", "|---|---|", *rows, "", "```json", table.rstrip("\n"), "```"])


def from_markdown(markdown: str) -> str:
    """The table in an artifact that `to_markdown` wrote."""
    return JSON_BLOCK.search(markdown).group(1) + "\n"


def measure_on_worker(name: str, queue: str, overrides: Overrides) -> str:
    """The table, measured by the worker of a queue; waits for it.

    Raises:
        ValueError: if the flow run does not complete.
    """
    print(f"waiting for a worker: `prefect worker start --pool local --work-queue {queue}` on the device", flush=True)
    run = run_deployment(DEPLOYMENT, parameters={"name": name, "overrides": overrides}, work_queue_name=queue, timeout=None)
    if run.state is None or not run.state.is_completed():
        raise ValueError(
            f"the run {run.name} on {queue} ended as {run.state.name if run.state else 'unknown'}: see `prefect flow-run logs {run.id}`"
        )
    artifact = Artifact.get(artifact_key(name))
    if artifact is None or artifact.flow_run_id != run.id:
        raise ValueError(f"the run {run.name} on {queue} wrote no artifact {artifact_key(name)!r}")
    return from_markdown(artifact.data)


def store(name: str, table: str) -> Path:
    """Write devices/NAME.json, add it to DVC, and push it to the remote if one is configured."""
    path = FOLDER / f"{name}.json"
    FOLDER.mkdir(exist_ok=True)
    path.write_text(table)
    for command in ("add", *(["push"] if remote_set() else [])):
        subprocess.run([sys.executable, "-m", "dvc", command, "--quiet", str(path)], check=True)
    return path


def check_name(name: str) -> None:
    """
    Raises:
        ValueError: for a name with other characters than lower-case letters, digits and single dashes, and for "none", which
            stands for no table.
    """
    if name == "none" or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"invalid device name {name!r}: use lower-case letters and digits with single dashes between them, e.g. pi4")


def artifact_key(name: str) -> str:
    """Key of a device's artifact."""
    return f"{STAGE}-{name}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Option(help="Name of the device: the table is written to devices/NAME.json.")],
    queue: Annotated[str | None, typer.Option(help="Work queue of the device's worker; default: measure this machine.")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter to change; repeatable.")] = None,
) -> None:
    """Measure a latency table on this machine or on a worker, and store it under DVC."""
    overrides = parse_overrides(change)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the stage ends with this
    try:
        check_name(name)
        path = store(name, measure(name, overrides) if queue is None else measure_on_worker(name, queue, overrides))
    except (StageFailed, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(f"{path}: to keep this version: git add {path}.dvc {FOLDER}/.gitignore; to search with it: search.latency_table: {path}")


if __name__ == "__main__":
    app()

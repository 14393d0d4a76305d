"""A latency table of another machine, by a worker there: measured where the networks will run, kept where the search runs.

The stage `latency` runs as a DVC experiment on the worker, so that nothing in its working tree changes; the table comes
back as a Prefect artifact, `latency-NAME`, whose versions the server keeps, and is written to devices/NAME.json here,
under DVC. On the device (a checkout at the same path as here, or change `pull` in prefect.yaml):

    prefect worker start --pool local --work-queue pi4

and on this machine, with the same PREFECT_API_URL:

    python -m flows.devices --name pi4 --queue pi4 --set latency.backend.threads=4

Without --queue this machine is measured. `search.latency_table: devices/pi4.json` searches for that device then.
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

from flows.stages import Commands, Overrides, StageFailed, changes, numbers, remote_set
from nas.runtime import processes

STAGE = "latency"
TABLE, METRICS = "outputs/latency/table.json", "outputs/latency/metrics.json"
FOLDER = Path("devices")
DEPLOYMENT = "devices/measure"
FENCED = re.compile(r"^```json\n(.*)\n```$", re.DOTALL | re.MULTILINE)


@flow(name="devices")
def measure(name: str, overrides: Overrides | None = None) -> str:
    """Measure a latency table of the machine that this runs on.

    Args:
        name: of the device, for the artifact: lower-case letters, digits and dashes.
        overrides: parameters to change, e.g. {"latency.backend.threads": 4}.

    Returns:
        The table, JSON.

    Raises:
        ValueError: for a name that no artifact can have.
        StageFailed: if dvc fails.
    """
    check(name)
    processes.require_git()
    experiment = f"{STAGE}-{name}-{flow_run.name}-{flow_run.run_count}"
    changed = [word for key, value in (overrides or {}).items() for word in ("--set-param", f"{key}={_word(value)}")]
    Commands().dvc("--wait-for-lock", "exp", "run", "--temp", "--single-item", "--force", "--name", experiment, *changed, STAGE)
    table, metrics = (dvc.api.read(path, rev=experiment) for path in (TABLE, METRICS))
    Commands().dvc("exp", "remove", experiment)
    create_markdown_artifact(told(name, table, json.loads(metrics)), key=key_of(name), description=f"Latency table of {name}")
    return table


def told(name: str, table: str, metrics: dict) -> str:
    """The artifact: what a person wants to know, then the table, from which `table_of` takes it."""
    setting = json.loads(table)
    facts = {k: setting[k] for k in ("device", "backend", "threads", "batch", "measured") if k in setting}
    rows = [f"| {key} | {value} |" for key, value in (facts | {k: f"{v:.4g}" for k, v in numbers([metrics]).items()}).items()]
    return "\n".join([f"# Latency of {name}", "", "| | |", "|---|---|", *rows, "", "```json", table.rstrip("\n"), "```"])


def table_of(markdown: str) -> str:
    """The table in an artifact that `told` wrote."""
    return FENCED.search(markdown).group(1) + "\n"


def from_worker(name: str, queue: str, overrides: Overrides) -> str:
    """Have the worker of a queue measure, wait for it, and fetch the table.

    Raises:
        ValueError: if the run there does not complete.
    """
    print(f"waiting for a worker: `prefect worker start --pool local --work-queue {queue}` on the device", flush=True)
    run = run_deployment(DEPLOYMENT, parameters={"name": name, "overrides": overrides}, work_queue_name=queue, timeout=None)
    if run.state is None or not run.state.is_completed():
        raise ValueError(
            f"the run {run.name} on {queue} ended as {run.state.name if run.state else 'unknown'}: see `prefect flow-run logs {run.id}`"
        )
    artifact = Artifact.get(key_of(name))
    if artifact is None or artifact.flow_run_id != run.id:
        raise ValueError(f"the run {run.name} on {queue} left no artifact {key_of(name)!r}")
    return table_of(artifact.data)


def keep(name: str, table: str) -> Path:
    """Write devices/NAME.json and put it under DVC; to the remote, too, where one is configured."""
    path = FOLDER / f"{name}.json"
    FOLDER.mkdir(exist_ok=True)
    path.write_text(table)
    for words in (["add", "--quiet", str(path)], *([["push", "--quiet", str(path)]] if remote_set() else [])):
        subprocess.run([sys.executable, "-m", "dvc", *words], check=True)
    return path


def check(name: str) -> None:
    """
    Raises:
        ValueError: for a name with anything but lower-case letters, digits and dashes.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"{name!r} cannot name a device: lower-case letters and digits, with single dashes between, e.g. pi4")


def key_of(name: str) -> str:
    """The artifact's."""
    return f"{STAGE}-{name}"


def _word(value: str | int | float | bool) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Option(help="Of the device: the table becomes devices/NAME.json.")],
    queue: Annotated[str | None, typer.Option(help="Work queue that the device's worker serves; this machine if not given.")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter to change there.")] = None,
) -> None:
    """Measure a latency table, here or on a worker, and keep it under DVC."""
    overrides = changes(change)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the stage ends with this
    try:
        check(name)
        path = keep(name, measure(name, overrides) if queue is None else from_worker(name, queue, overrides))
    except (StageFailed, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    print(f"{path}: `git add {path}.dvc {FOLDER}/.gitignore` keeps this version; search.latency_table: {path} searches for it")


if __name__ == "__main__":
    app()

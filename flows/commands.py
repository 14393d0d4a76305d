"""dvc commands of a flow run, and Prefect's concurrency limits.

Two global concurrency limits of Prefect apply to all flows and workers of a server, if they exist when a flow starts:
`trainings` to every stage, so that two workers of one machine do not train at once; `gpu` to the stages that run
networks, so that at most as many run as there are GPUs:

    prefect gcl create trainings --limit 1
    prefect gcl create gpu --limit 4

A slot is released when its stage ends. If the whole process is killed, Prefect releases it after 5 minutes. If the
server is killed too, it forgets who held a slot: `prefect gcl update trainings --active-slots 0` frees all.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer
from dvc.repo import Repo
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

import nas

DVC = (  # not in a session of its own: a worker cancels by signalling the process group
    "import sys; from nas.runtime.processes import die_with_parent; die_with_parent(); "
    "from dvc.cli import main; sys.exit(main(sys.argv[1:]))"
)
ERROR_LINES = 20  # of a failed command's output, in the error message
TRAININGS, GPU = "trainings", "gpu"  # concurrency limits
LOCKED = 423  # HTTP status: all slots of a limit are taken
POLL_S = 5.0  # between two requests for a slot

Overrides = dict[str, str | int | float | bool]


class StageFailed(RuntimeError):
    """A dvc command failed; the message ends with its last output."""


class RemoteFailed(StageFailed):
    """A dvc command failed because the remote did not answer."""


class Commands:
    """The dvc commands of one flow run, started by any of its threads and terminated together."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()

    def dvc(self, *args: str) -> list[str]:
        """Run a dvc command, log its output line by line and return it.

        Raises:
            StageFailed: if the command fails, or after `end`.
        """
        logger, lines = get_run_logger(), []
        with self._started(args) as process:
            try:
                for line in process.stdout:
                    lines.append(line.rstrip())
                    logger.info(lines[-1])
            except BaseException:
                self.end()
                process.stdout.read()  # until the stage has ended as well
                raise
        if process.returncode:
            raise StageFailed(f"`dvc {' '.join(args)}` failed:\n" + "\n".join(lines[-ERROR_LINES:]))
        return lines

    def end(self) -> None:
        """Terminate the running commands, with their stages, and start no more."""
        with self._lock:
            self.ended.set()
            for process in self._running:
                process.terminate()

    @contextmanager
    def _started(self, args: tuple[str, ...]) -> Iterator[subprocess.Popen]:
        environment = os.environ | {
            "PYTHONUNBUFFERED": "1",
            # a worker may run without the environment activated
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(nas.__file__).parents[1]), os.environ.get("PYTHONPATH")])),
            "NAS_PIPELINE": str(flow_run.id),
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
        }
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace", "env": environment}
        with self._lock:
            if self.ended.is_set():
                raise StageFailed(f"`dvc {' '.join(args)}` was not started: the flow run is ending")
            process = subprocess.Popen([sys.executable, "-c", DVC, *args], **options)
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._lock:
                self._running.discard(process)


def remote_set() -> bool:
    """Whether a default DVC remote is configured."""
    with Repo(".") as repo:
        return "remote" in repo.config["core"]


def limits_set() -> frozenset[str]:
    """The concurrency limits that the Prefect server has; for a missing one, `concurrency` would warn at every stage."""
    existing = set()
    with get_client(sync_client=True) as client:
        for name in (TRAININGS, GPU):
            try:
                client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                continue
            existing.add(name)
    return frozenset(existing)


@contextmanager
def slots(limits: Iterable[str], commands: Commands) -> Iterator[None]:
    """Wait for a slot of each limit, one after the other, and hold them.

    Raises:
        StageFailed: if the flow run ends meanwhile.
    """
    with ExitStack() as held:
        for name in limits:
            logged = False
            while True:
                try:
                    held.enter_context(concurrency(name, max_retries=0))  # Prefect's own waiting cannot be interrupted
                    break
                except ConcurrencySlotAcquisitionError as error:
                    if getattr(getattr(error.__cause__, "response", None), "status_code", None) != LOCKED:
                        raise
                    if not logged:
                        get_run_logger().info(f"Waiting for a slot of the limit {name!r}: see `prefect gcl inspect {name}`")
                        logged = True
                    if commands.ended.wait(POLL_S):
                        raise StageFailed(f"no slot of the limit {name!r} before the run ended") from None
        yield


def parse_overrides(arguments: list[str] | None) -> Overrides:
    """`KEY=VALUE` arguments of a command line.

    Raises:
        typer.BadParameter: for an argument without a value.
    """
    arguments = arguments or []
    if invalid := [argument for argument in arguments if "=" not in argument]:
        raise typer.BadParameter(f"{invalid[0]!r} has no value; write KEY=VALUE, e.g. --set train.epochs=2")
    return dict(argument.split("=", 1) for argument in arguments)


def set_params(overrides: Overrides) -> list[str]:
    """Arguments of `dvc exp run` for changed parameters."""
    return [
        argument
        for key, value in overrides.items()
        for argument in ("--set-param", f"{key}={json.dumps(value) if isinstance(value, bool) else value}")
    ]

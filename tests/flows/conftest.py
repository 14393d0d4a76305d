"""Fixtures of the flow tests: a Prefect server, and projects that flows run in as processes."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flows import stages


@pytest.fixture(scope="session")
def server():
    """A Prefect server with its own database; started once, because it takes seconds."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def plain_environment(monkeypatch) -> None:
    """A git identity, and no variables of an enclosing DVC or flow run."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.org")
    for key in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "NAS_PIPELINE"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def install() -> Callable[[Path], dict[str, str]]:
    """Copies flows, deployments and settings of this repository into a project; returns the environment to run them."""

    def install(project: Path) -> dict[str, str]:
        root = Path(stages.__file__).parents[1]
        for name in ("flows", "nas"):
            shutil.copytree(root / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(root / "prefect.yaml", project)
        (project / "pyproject.toml").write_text("[tool.prefect.server.ephemeral]\nstartup_timeout_seconds = 180\n")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "PYTHONPATH"))}
        return clean | {"PREFECT_HOME": str(project.parent / "prefect"), "DO_NOT_TRACK": "true", "PWD": str(project)}

    return install


@dataclass
class PrefectProcesses:
    """Prefect commands with one server, and the background processes among them."""

    environment: dict[str, str]
    running: list[subprocess.Popen] = field(default_factory=list)

    def call(self, *args: str) -> str:
        """The output of a command."""
        return subprocess.run(self._command(args), check=True, env=self.environment, stdout=subprocess.PIPE, text=True).stdout

    def start(self, *args: str) -> None:
        """Start a command in the background; it is terminated with the test."""
        self.running.append(subprocess.Popen(self._command(args), env=self.environment))

    @staticmethod
    def _command(args: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "prefect", "--no-prompt", *args]


@pytest.fixture
def prefect_processes(install) -> Callable:
    """A context for a project: it installs the flow code and starts a server with a work pool `local`."""

    @contextmanager
    def opened(project: Path) -> Iterator[PrefectProcesses]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}/api"
        prefect = PrefectProcesses(install(project) | {"PREFECT_API_URL": url})
        try:
            prefect.start("server", "start", "--host", "127.0.0.1", "--port", str(port))
            _wait_for(f"{url}/health")
            prefect.call("work-pool", "create", "local", "--type", "process")
            yield prefect
        finally:
            for process in reversed(prefect.running):
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:  # a polling worker may ignore the signal
                    process.kill()
                    process.wait()

    return opened


def _wait_for(url: str) -> None:
    import httpx

    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError(f"nothing at {url}")

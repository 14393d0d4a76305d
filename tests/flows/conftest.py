"""What the tests of the flows share: a Prefect server, and a project that flows can run in as processes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import stages


@pytest.fixture(scope="session")
def server():
    """Prefect's own, with a database of its own; it takes seconds to start, so once for all."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def plain_environment(monkeypatch) -> None:
    """Someone to commit as, and no DVC or pipeline above this process."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "t")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "t@example.org")
    for key in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "NAS_PIPELINE", "NAS_PIPELINE_OWNER"):
        monkeypatch.delenv(key, raising=False)


@pytest.fixture
def install() -> Callable[[Path], dict[str, str]]:
    """Puts flow code, deployments and settings into a project as they are in this repository; returns the environment to use them."""

    def install(project: Path) -> dict[str, str]:
        root = Path(stages.__file__).parents[1]
        for name in ("flows", "nas"):
            shutil.copytree(root / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(root / "prefect.yaml", project)
        (project / "pyproject.toml").write_text("[tool.prefect.server.ephemeral]\nstartup_timeout_seconds = 180\n")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "PYTHONPATH"))}
        return clean | {"PREFECT_HOME": str(project.parent / "prefect"), "DO_NOT_TRACK": "true", "PWD": str(project)}

    return install

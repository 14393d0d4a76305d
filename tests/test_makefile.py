"""Checks that `make` does before it runs a command."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


# without the variables of a make that runs these tests
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
}


def make(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run make with this interpreter's environment, without set-up."""
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "none/.ready", "VENV=none", *words]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def test_a_taken_port_is_refused():
    """The UI does not start on a port that is in use, and another one is proposed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = make("ui", f"PORT={port}")
    assert done.returncode != 0
    assert f"port {port} is taken; choose another: make ui PORT=5001" in done.stdout


def test_without_git_repro_says_what_to_do(tmp_path):
    """Outside a git repository, which DVC needs, `make repro` prints the commands that create one."""
    done = make("repro", cwd=tmp_path)
    assert done.returncode != 0
    assert "git init && git add -A && git commit" in done.stdout


def test_a_second_call_sets_nothing_up(tmp_path):
    """With an environment newer than its pins, make runs the command directly."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / ".ready").write_text("")
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), "VENV=venv", "test"]
    planned = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert planned.stdout.split() == ["pytest"]

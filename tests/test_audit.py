"""`make audit`: what pip-audit says, as an exit status; without it, or without a network, a line that says so."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = {"name": "a", "version": "1", "vulns": []}
WRONG = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}, {"id": "PYSEC-2", "fix_versions": []}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.fixture
def answer(tmp_path):
    """Run the audit with a pip-audit that gives a certain answer."""

    def answer(text: str, error: str = "", status: int = 0) -> subprocess.CompletedProcess:
        command = tmp_path / "bin" / "pip-audit"
        command.parent.mkdir(exist_ok=True)
        code = f"import sys\nprint({text!r})\nprint({error!r}, file=sys.stderr)\nsys.exit({status})\n"
        command.write_text(f"#!{sys.executable}\n{code}")
        command.chmod(0o755)
        words = [sys.executable, ROOT / ".ci" / "audit.py", ROOT / "constraints.txt", tmp_path]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    return answer


def test_a_vulnerability_fails(answer):
    """Each with its package, its version, and the version that has it mended."""
    done = answer(json.dumps({"dependencies": [CLEAN, WRONG, UNKNOWN]}), status=1)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "b 2: PYSEC-1, mended in 2.1",
        "b 2: PYSEC-2, mended in no version yet",
        "3 packages looked up, 1 of them unknown to the list: 2 vulnerabilities",
    ]


def test_none_passes(answer):
    """It says how many were looked up."""
    done = answer(json.dumps({"dependencies": [CLEAN]}))
    assert (done.returncode, done.stdout) == (0, "1 packages looked up, 0 of them unknown to the list: 0 vulnerabilities\n")


def test_without_a_network_it_is_skipped(answer):
    """Its last words are told; a mirror that answers and knows nothing is no list either."""
    done = answer("", "ERROR: Could not connect to the feed", status=1)
    assert done.returncode == 0
    assert done.stdout.startswith("audit skipped: nothing was checked") and "Could not connect to the feed" in done.stdout
    done = answer(json.dumps({"dependencies": [UNKNOWN]}))
    assert done.returncode == 0 and done.stdout.startswith("audit skipped: nothing was checked")


def test_a_pip_audit_that_fails_is_no_pass(answer):
    """Pins that it cannot read, say: told, with an exit status."""
    done = answer("", "ERROR: invalid requirements input", status=1)
    assert done.returncode == 1 and "pip-audit failed: ERROR: invalid requirements input" in done.stderr


def test_where_it_cannot_be_installed_it_is_skipped(monkeypatch, tmp_path, capsys):
    """A pip that finds nothing."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: subprocess.CompletedProcess(words, 1))
    audit = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
    with pytest.raises(SystemExit) as stopped:
        audit["main"](ROOT / "constraints.txt", tmp_path)
    assert not stopped.value.code and "pip-audit cannot be installed here" in capsys.readouterr().out


def test_make_knows_it():
    """The target gives it the pins."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    done = subprocess.run(["make", "-n", "audit"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ".ci/audit.py constraints.txt" in done.stdout

"""`make audit`: pip-audit's answer as an exit status; without it or without a network, the check is skipped."""

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
    """Run the audit with a stub of pip-audit that gives a certain answer."""

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
    """Each vulnerability is printed with package, version and the fixed version."""
    done = answer(json.dumps({"dependencies": [CLEAN, WRONG, UNKNOWN]}), status=1)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "b 2: PYSEC-1, fixed in 2.1",
        "b 2: PYSEC-2, fixed in no version yet",
        "3 packages looked up, 1 of them unknown to the list: 2 vulnerabilities",
    ]


def test_no_vulnerability_passes(answer):
    """The summary states how many packages were looked up."""
    done = answer(json.dumps({"dependencies": [CLEAN]}))
    assert (done.returncode, done.stdout) == (0, "1 packages looked up, 0 of them unknown to the list: 0 vulnerabilities\n")


def test_without_a_network_it_is_skipped(answer):
    """Without an answer, or with a mirror that knows no package, the check is skipped and says so."""
    done = answer("", "ERROR: Could not connect to the feed", status=1)
    assert done.returncode == 0
    assert done.stdout.startswith("audit skipped: nothing was checked") and "Could not connect to the feed" in done.stdout
    done = answer(json.dumps({"dependencies": [UNKNOWN]}))
    assert done.returncode == 0 and done.stdout.startswith("audit skipped: nothing was checked")


def test_a_failure_of_pip_audit_fails(answer):
    """Another failure, e.g. unreadable pins, gives an error and exit status 1."""
    done = answer("", "ERROR: invalid requirements input", status=1)
    assert done.returncode == 1 and "pip-audit failed: ERROR: invalid requirements input" in done.stderr


def test_without_pip_audit_it_is_skipped(monkeypatch, tmp_path, capsys):
    """If pip cannot install pip-audit, the check is skipped."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: subprocess.CompletedProcess(words, 1))
    audit = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
    with pytest.raises(SystemExit) as stopped:
        audit["main"](ROOT / "constraints.txt", tmp_path)
    assert not stopped.value.code and "pip-audit cannot be installed" in capsys.readouterr().out


def test_make_audit_reads_the_pins():
    """The make target passes constraints.txt."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "MFLAGS"}
    done = subprocess.run(["make", "-n", "audit"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ".ci/audit.py constraints.txt" in done.stdout

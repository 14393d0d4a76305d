"""Pages of stale studies say so."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from studies import stale

ROOT = Path(__file__).parents[2]
FILE = Path("studies/small_claims/dvc.yaml")
STAGES = {
    "report": {
        "wdir": "../..",
        "cmd": "python -c \"from pathlib import Path; Path('docs').mkdir(exist_ok=True); Path('docs/small.md').write_text('# Small')\"",
        "deps": ["code.py", "data.txt"],
        "params": [{"studies/small_claims/params.yaml": ["epochs"]}],
        "plots": [{"docs/small.md": {"cache": False}}],
    }
}


def test_a_page_says_whether_it_is_stale(monkeypatch):
    """The page of a stale study has the note, that of a current one has not; `make stale` writes and removes it."""
    monkeypatch.chdir(ROOT)
    assert stale.main(check=True) == 0


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A finished study with one stage, its code, data and parameter."""
    monkeypatch.chdir(tmp_path)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    FILE.parent.mkdir(parents=True)
    FILE.write_text(yaml.safe_dump({"stages": STAGES}))
    FILE.with_name("params.yaml").write_text("epochs: 1\n")
    Path("code.py").write_text("x = 1\n")
    Path("data.txt").write_text("images\n")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", str(FILE)], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("code.py", "x = 2\n", True),
        ("studies/small_claims/params.yaml", "epochs: 2\n", True),
        ("studies/small_claims/dvc.yaml", yaml.safe_dump({"stages": {"report": STAGES["report"] | {"cmd": "true"}}}), True),
        ("data.txt", None, False),
        ("docs/small.md", "# Edited", False),
    ],
)
def test_the_note_follows_the_tree(project, path, text, expected):
    """Changed code, parameters or commands make a study stale; missing data and edited outputs do not; undoing removes the note."""
    original, before = Path(path).read_text(), Path("docs/small.md").read_text()
    assert stale.main(check=True) == 0
    if text is None:
        Path(path).unlink()
    else:
        Path(path).write_text(text)
    assert (stale.main(check=True) == 1) == expected
    stale.main(check=False)
    assert Path("docs/small.md").read_text().startswith("> **Stale:**") == expected and stale.main(check=True) == 0
    Path(path).write_text(original)
    stale.main(check=False)
    assert Path("docs/small.md").read_text() == before


def test_a_rerun_removes_the_note(project):
    """`dvc repro` writes the page without it, and nothing remains to be done."""
    Path("code.py").write_text("x = 2\n")
    assert stale.main(check=False) == 1
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", str(FILE)], check=True)
    assert Path("docs/small.md").read_text() == "# Small" and stale.main(check=True) == 0

"""Sizes of modules and functions, and the words of the field, for all that users and developers read."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES_PER_MODULE = 400
LINES_PER_FUNCTION = 60
RETIRED = {  # pattern -> what to say
    r"pictures?": "image",
    r"monitor": "validation split, val",
    r"dearest": "most expensive",
    r"heaviest": "largest",
    r"lightest": "smallest, cheapest",
    r"mutants?": "mutations",
    r"guided": "bayesian, surrogate-assisted",
    r"survey(?:s|ed)?": "profiling, latency lookup table",
    r"strengths": "architecture parameters (alpha, beta)",
    r"fresh weights": "trained from scratch",
    r"top1_alone": "top1_scratch",
    r"cut out of": "extracted from",
    r"cannot be told": "inconclusive",
    r"no number": "NaN or infinite",
    r"processor time": "CPU time",
    r"beside other work": "on a busy machine",
    r"to take away": "self-contained bundle, exported model",
}
ALLOWED = {  # former names that a message or the reader of an old file needs, and strings that name random streams
    ("nas/runtime/params.py", "pictures?"),
    ("nas/runtime/params.py", "monitor"),
    ("nas/runtime/params.py", "mutants?"),
    ("nas/runtime/params.py", "guided"),
    ("nas/runtime/params.py", "strengths"),
    ("nas/runtime/params.py", "heaviest"),
    ("nas/search/bayesian.py", "guided"),
    ("nas/tracking/runs.py", "monitor"),  # MLflow's SystemMetricsMonitor
    ("nas/stages/hardcore_nas/searcher.py", "pictures?"),
    ("nas/export/bundle.py", "pictures?"),
    ("studies/methods/oneshot.py", "pictures?"),
    ("docs/formats.md", "pictures?"),
}


def tracked(*patterns: str) -> list[str]:
    """Files that git tracks and that are there, by pattern."""
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


CODE = tracked("nas/*.py", "flows/*.py", "studies/*.py")
PAGES = [name for name in tracked("README.md", "docs/*.md") if Path(name).stem not in ("strategies", "tf_nas", "hardcore_nas", "methods")]
PARAMETERS = tracked("params.yaml", "presets/*.yaml", "pipelines/*/params.yaml", "pipelines/*/presets/*.yaml", "studies/*/params.yaml")


def test_no_module_is_longer_than_a_reader_can_hold():
    """At most 400 lines."""
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in CODE}
    assert not {name: length for name, length in lengths.items() if length > LINES_PER_MODULE}


def test_no_function_is_longer_than_a_screen():
    """At most 60 lines, docstring included."""
    long = {}
    for name in CODE:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.FunctionDef) and (length := node.end_lineno - node.lineno + 1) > LINES_PER_FUNCTION:
                long[f"{name}:{node.name}"] = length
    assert not long


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_stay_away(word):
    """In code, parameters, README and docs; pages that studies write are checked when they are written."""
    pattern = re.compile(rf"(?<![A-Za-z]){word}(?![a-z])", re.IGNORECASE)
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in (*CODE, *PAGES, *PARAMETERS)
        if (name, word) not in ALLOWED
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"say {RETIRED[word]!r}"


def test_readme_is_one_short_page():
    """About 8 kB, and everything it links to exists."""
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) < 9_000
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_docs_lead_somewhere(page):
    """Relative ones, from the page's folder."""
    links = [link for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()) if "://" not in link]
    assert not [link for link in links if not ((ROOT / page).parent / link).exists()]


def test_the_table_of_places_names_files_that_exist():
    """`to change X, open Y` of docs/architecture.md; a bare name lies beside the one before it."""
    table = (ROOT / "docs/architecture.md").read_text().partition("## To change X, open Y")[2]
    folder, named = None, 0
    for name in re.findall(r"`([\w/]+(?:\.py|\.yaml|/))`", table):
        path = ROOT / name if "/" in name else folder / name
        assert path.exists(), name
        folder, named = path.parent, named + 1
    assert named >= 25

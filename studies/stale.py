"""Stale studies: a note at the top of a study's page while its results are older than the tree.

    python -m studies.stale            write or remove the notes; also `make stale`
    python -m studies.stale --check    change nothing; exit with 1 if a note is missing or out of place

A study is stale if a dependency, a parameter or the command of one of its stages differs from its dvc.lock. Data that this clone does
not have does not count, so a fresh clone is no reason.

The page is an output of stage report, and dvc.lock has the hash of the page without the note. The two differ only while the study is
stale, when `dvc repro` runs its stages anyway: report then writes the page without the note. Removing the note gives the bytes that
dvc.lock has.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from dvc.repo import Repo

NOTE = "> **Stale:** code or parameters are newer than these results; `dvc repro {file}` brings them up to date.\n\n"


def page(file: Path) -> Path:
    """docs/tf_nas.md of studies/tf_nas_claims/dvc.yaml, relative to the project's root."""
    return Path("docs") / f"{file.parent.name.removesuffix('_claims')}.md"


def stale_stages(status: Mapping[str, list]) -> dict[str, list[str]]:
    """Stages that differ from dvc.lock, with what differs.

    Args:
        status: of `dvc status`: stage -> entries, each a mapping of one kind of change to the changed paths, or a text.
    """
    stages = {}
    for stage, entries in status.items():
        changes = [path for entry in entries if isinstance(entry, Mapping) for path in _present(entry.get("changed deps", {}))]
        changes += ["command" for entry in entries if entry == "changed command"]
        if changes:
            stages[stage] = changes
    return stages


def _present(changes: Mapping[str, str | Mapping[str, str]]) -> list[str]:
    """Changed dependencies that exist: files and folders by path, parameter files with their changed keys."""
    return [path for path, change in changes.items() if isinstance(change, Mapping) or change != "deleted"]


def with_note(text: str, file: Path, stale: bool) -> str:
    """The text of a page with the note at its top, or without."""
    note = NOTE.format(file=file)
    return (note if stale else "") + text.removeprefix(note)


def main(check: bool) -> int:
    """Update the pages of all studies, or only check them; returns the number of pages with a wrong note."""
    wrong = 0
    with Repo() as repo:
        for file in sorted(Path("studies").glob("*/dvc.yaml")):
            stages = stale_stages(repo.status(targets=[str(file)]))
            text = page(file).read_text()
            updated = with_note(text, file, stale=bool(stages))
            state = f"stale, {len(stages)} stages differ from dvc.lock" if stages else "up to date"
            print(f"{file.parent}: {state}; {page(file)}" + (" has the wrong note" if check and updated != text else ""))
            wrong += updated != text
            if not check:
                page(file).write_text(updated)
    return wrong


if __name__ == "__main__":
    count = main(check := "--check" in sys.argv[1:])
    sys.exit(1 if check and count else 0)

"""Journals: every record whose append returned is found by the next process, once."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.tracking.outbox import LINES, Journal, JournalError

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5)
RECORDS = st.lists(st.dictionaries(st.text().filter(lambda k: k != "path"), JSON, max_size=3), min_size=1, max_size=5)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "waiting" / "one"


def left(folder, heading, records) -> None:
    """By a process that has ended."""
    journal = Journal(folder, heading)
    for record in records:
        journal.append(record)
    journal.close()


@given(records=RECORDS, cut=st.floats(0, 1))
def test_a_cut_journal_keeps_the_records_before(tmp_path_factory, records, cut):
    """Wherever a crash cut the file: a start of the records comes back, whole, and all of them if nothing was cut."""
    folder = tmp_path_factory.mktemp("journal") / "one"
    left(folder, {"run": "a"}, records)
    lines, size = (folder / LINES).read_bytes().splitlines(keepends=True), (folder / LINES).stat().st_size
    keep = round(cut * size)
    os.truncate(folder / LINES, keep)
    whole = sum(len(b"".join(lines[: i + 1])) <= keep for i in range(len(lines)))
    journal = Journal.take(folder)
    assert (journal is None) if not whole else (journal.heading == {"run": "a"} and journal.records == records[: whole - 1])
    if journal:
        journal.append({"last": 1})
        journal.close()
        assert Journal.take(folder).records == [*records[: whole - 1], {"last": 1}]


def test_nothing_is_left_without_records(folder):
    """No folder before the first, none after all are delivered; then another begins."""
    journal = Journal(folder, {})
    assert not folder.exists()
    for _ in range(2):
        journal.append({"a": 1})
        assert folder.exists()
        journal.clear()
        assert not folder.exists() and journal.records == [] and Journal.take(folder) is None


def test_a_journal_belongs_to_a_living_process(folder):
    """Nobody else gets it until it is left."""
    journal = Journal(folder, {})
    journal.append({"a": 1})
    assert Journal.take(folder) is None
    journal.close()
    assert Journal.take(folder).records == [{"a": 1}]


def test_files_are_kept_as_they_were(folder, tmp_path):
    """A file and a folder, changed afterwards."""
    file, inner = tmp_path / "a.txt", tmp_path / "inner"
    inner.mkdir()
    journal = Journal(folder, {})
    for i in range(2):
        file.write_text(f"{i}")
        (inner / "b.txt").write_text(f"{i}")
        journal.append({"path": str(file)})
        journal.append({"path": str(inner)})
    journal.close()
    paths = [record["path"] for record in Journal.take(folder).records]
    assert [Path(p if i % 2 == 0 else f"{p}/b.txt").read_text() for i, p in enumerate(paths)] == ["0", "0", "1", "1"]


def test_a_full_disk_leaves_whole_lines(folder, monkeypatch):
    """It is told with the file; what was kept before is kept, and later records come after it."""
    journal = Journal(folder, {})
    journal.append({"a": 1})

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device; make room and run again.*records\.jsonl"):
            journal.append({"a": 2})
    journal.append({"a": 3})
    journal.close()
    assert Journal.take(folder).records == [{"a": 1}, {"a": 3}]


def test_a_damaged_journal_is_named(folder):
    """A line in the middle that is no JSON."""
    left(folder, {}, [{"a": 1}, {"a": 2}])
    text = (folder / LINES).read_text().replace('{"a": 1}', '{"a" 1}')
    (folder / LINES).write_text(text)
    with pytest.raises(JournalError, match=r"one/records\.jsonl has a line that is not JSON"):
        Journal.take(folder)

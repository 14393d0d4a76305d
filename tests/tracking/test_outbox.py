"""Notes: whatever `save` returned from is found by the next process, complete and once."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.tracking.outbox import FILES, NOTE, Note, NoteError

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5)
PENDING = st.dictionaries(st.text(), st.lists(JSON, max_size=3), max_size=3)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outbox" / "one"


def new(folder: Path, **pending: list) -> Note:
    return Note(folder, "store", {"name": "train"}, {"run": "a"}, pending)


@given(before=PENDING, after=PENDING, cut=st.floats(0, 1))
def test_a_crash_while_saving_leaves_the_note_before(tmp_path_factory, before, after, cut):
    """Wherever the process is killed: the next one finds the former note or the new one, complete."""
    folder = tmp_path_factory.mktemp("outbox") / "one"
    note = new(folder, **before)
    note.save()
    note.pending = after

    class Killed(BaseException): ...

    def kill(*paths):
        os.truncate(paths[0], round(cut * os.path.getsize(paths[0])))
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", kill)
        note.save()
    note.close()
    taken = Note.take(folder)
    assert (taken.store, taken.spec, taken.ids, taken.pending) == ("store", {"name": "train"}, {"run": "a"}, before)
    taken.pending = after
    taken.save()
    taken.close()
    assert Note.take(folder).pending == after


def test_nothing_remains_of_a_delivered_note(folder):
    """No folder before the first save, none after all is delivered; then another begins."""
    note = new(folder)
    assert not folder.exists()
    for _ in range(2):
        note.pending = {"tags": [["a", 1]]}
        note.save()
        assert folder.exists() and note.saved
        note.clear()
        assert not folder.exists() and note.pending == {} and not note.saved and Note.take(folder) is None


def test_a_note_belongs_to_a_living_process(folder):
    """No other process gets it until it is closed."""
    note = new(folder, tags=[["a", 1]])
    note.save()
    assert Note.take(folder) is None
    note.close()
    taken = Note.take(folder)
    assert taken.pending == {"tags": [["a", 1]]} and taken.saved and Note.take(folder) is None


def test_files_stay_as_they_were(folder, tmp_path):
    """A file and a folder that change afterwards; each is copied once."""
    file, inner = tmp_path / "a.txt", tmp_path / "inner"
    inner.mkdir()
    note = new(folder, artifacts=[])
    for i in range(2):
        file.write_text(f"{i}")
        (inner / "b.txt").write_text(f"{i}")
        note.pending["artifacts"] += [{"path": str(file)}, {"path": str(inner)}]
        note.save()
    note.close()
    paths = [Path(item["path"]) for item in Note.take(folder).pending["artifacts"]]
    assert [(p if i % 2 == 0 else p / "b.txt").read_text() for i, p in enumerate(paths)] == ["0", "0", "1", "1"]
    assert len(list((folder / FILES).iterdir())) == 4


def test_a_full_disk_keeps_the_note_before(folder, monkeypatch):
    """The error names the file; the next save has all records."""
    note = new(folder, tags=[["a", 1]])
    note.save()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    note.pending["tags"].append(["a", 2])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device; make room and run again.*note\.json"):
            note.save()
    note.close()
    taken = Note.take(folder)
    assert taken.pending == {"tags": [["a", 1]]} and not (folder / f"{NOTE}.new").exists()
    taken.close()


@pytest.mark.parametrize("text", ['{"store" 1}', "[]", '{"store": "a"}'])
def test_a_damaged_note_is_named(folder, text):
    """What is no JSON, or lacks what a note has."""
    note = new(folder)
    note.save()
    note.close()
    (folder / NOTE).write_text(text)
    with pytest.raises(NoteError, match=r"one/note\.json is damaged"):
        Note.take(folder)

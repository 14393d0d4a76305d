"""Progress: what passes through, and how much is printed where nobody watches."""

import io
import sys

import pytest

from nas.runtime.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_items_pass_through(monkeypatch, stream):
    """All of them, in order, one at a time."""
    monkeypatch.setattr(sys, "stderr", stream())
    taken = []
    source = (taken.append(i) or i for i in range(5))
    seen = []
    for item in progress(source, "counting", 5):
        seen.append(item)
        assert taken == seen
    assert seen == [0, 1, 2, 3, 4]


def test_two_lines_without_a_terminal(monkeypatch, capsys):
    """A thousand items: one line before, one after, with name, number and what was done before."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert sum(progress(range(1000), "counting", 1500, done=500)) == 499_500
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "counting: 1500 to do, 500 of them before"
    assert len(lines) == 2 and lines[1].startswith("counting: done in ")


def test_a_terminal_shows_name_and_count(monkeypatch, capsys):
    """The bar goes to stderr, with the items done of all; stdout stays free."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    list(progress(range(3), "counting", 5, done=2))
    shown = terminal.getvalue()
    assert "counting" in shown and "5/5" in shown
    assert capsys.readouterr().out == ""


def test_an_error_within_passes(monkeypatch):
    """What the loop raises is not swallowed."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    def items():
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(progress(items(), "counting", 2))

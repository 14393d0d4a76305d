"""Progress passes values through and prints little without a terminal."""

import io
import sys

import pytest

from nas.runtime.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_values_pass_through(monkeypatch, stream):
    """All values come in order, one at a time."""
    monkeypatch.setattr(sys, "stderr", stream())
    produced = []
    source = (produced.append(i) or i for i in range(5))
    seen = []
    for value in progress(source, "counting", 5):
        seen.append(value)
        assert produced == seen
    assert seen == [0, 1, 2, 3, 4]


def test_two_lines_are_printed_without_a_terminal(monkeypatch, capsys):
    """One line before and one after have the name, the total and the number done before."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert sum(progress(range(1000), "counting", 1500, done=500)) == 499_500
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "counting: 1500 to do, 500 of them done"
    assert len(lines) == 2 and lines[1].startswith("counting: done in ")


def test_a_terminal_shows_name_and_count(monkeypatch, capsys):
    """The bar goes to stderr with the count; stdout stays empty."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    list(progress(range(3), "counting", 5, done=2))
    output = terminal.getvalue()
    assert "counting" in output and "5/5" in output
    assert capsys.readouterr().out == ""


def test_an_error_of_the_loop_is_raised(monkeypatch):
    """Errors pass through."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    def failing():
        yield 1
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(progress(failing(), "counting", 2))

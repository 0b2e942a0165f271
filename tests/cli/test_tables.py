"""Tables for the terminal: plain and of one width in a pipe, styled and fitted on a terminal."""

import io
import re
import sys
from pathlib import Path

import pytest

import ktask
from ktask.cli.base import fail
from ktask.cli.tables import as_text, show, table

PARTS = ["[bold] 10 MiB :smile:", table(("case", "time"), [("free 4KiB", "1.5 ms"), ("x", "10 s")], indent=2)]
TEXT = "[bold] 10 MiB :smile:\n  case         time\n  free 4KiB  1.5 ms\n  x            10 s\n"


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1", "COLUMNS": "10"}, {"TERM": "dumb"}])
def test_a_pipe_gets_plain_text_whatever_the_surroundings(variables, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    show(PARTS)
    assert capsys.readouterr().out == TEXT == as_text(PARTS)


@pytest.mark.parametrize(("columns", "lines"), [("30", 5), ("120", 4), ("200", 2)])
def test_a_terminal_gets_a_styled_head_and_its_own_width_but_whole_numbers(columns, lines, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    show([table(("what", *"abcdef"), [("a long name of a case " * 4, *(["12345.67 ms"] * 6))])])
    assert "\x1b[1m" in terminal.getvalue()
    assert terminal.getvalue().count("12345.67 ms") == 6
    assert len(terminal.getvalue().splitlines()) == lines


def test_long_rows_are_not_folded_in_a_pipe():
    assert len(as_text([table(("a",), [("word " * 100,)])]).splitlines()) == 2


def test_only_the_command_line_knows_how_things_look_in_a_terminal():
    """An engine alone has no rich."""
    package = Path(ktask.__file__).parent
    users = [p for p in package.rglob("*.py") if re.search(r"^\s*(from|import) rich\b", p.read_text(), re.M)]
    assert users and {path.relative_to(package).parts[0] for path in users} == {"cli"}


def test_nothing_steers_the_terminal(capsys):
    text = as_text(["\x1b[31mred\x9b1m", table(["a\x07"], [["\x1b]0;title\x07"]])])
    assert text == "\\x1b[31mred\\x9b1m\na\\x07\n\\x1b]0;title\\x07\n"
    with pytest.raises(SystemExit):
        fail("it is \x1b[31mred", 2)
    assert capsys.readouterr().err == "ktask: it is \\x1b[31mred\n"

"""What reaches the terminal: no escape sequence, no markup."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from cai.cli.output import print_table
from cai.terminal_text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nof two lines — “ü” 🙂", "plain\ttext\nof two lines — “ü” 🙂"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\text", "text"),
        ("\x9b31mred", "red"),
        ("\x1b]0;no end", "0;no end"),
        ("over\rwritten\b\b\x7f\x00\x07", "overwritten"),
        ("lines\r\nof Windows", "lines\nof Windows"),
        ("\u202eevil\u2066", "evil"),
        ("\x1b\x1b[31mtwo", "two"),
    ],
)
def test_escape_sequences(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(alphabet=st.sampled_from("\x1b\x9b\x9d[]0;mP\\\x07\r\n\tab\u202e"), max_size=30))
def test_no_control_character_is_left(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printable(text))


def test_errors_hold_no_escape_sequences(capsys: Capture, tmp_path: Path) -> None:
    result = run_command(capsys, "check", tmp_path / "\x1b]0;title\x07\x1b[2Jname.yaml")
    assert "name.yaml" in result.usage_error
    assert "\x1b" not in result.err


def test_brackets_in_tables_are_text(capsys: Capture) -> None:
    table = Table("name")
    for name in ("[red]x", "[/nothing]", ":smile:"):
        table.add_row(name)
    print_table(table)
    out = capsys.readouterr().out
    for name in ("[red]x", "[/nothing]", ":smile:"):
        assert name in out

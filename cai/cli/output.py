"""Tables on standard output."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType


def print_table(table: RenderableType, columns: int = 100) -> None:
    """Print a table in the terminal's width, or `columns` characters wide to a file or a pipe.

    Names in brackets, such as `[red]`, are text: cells hold what files hold.
    """
    width = None if sys.stdout.isatty() else columns
    Console(width=width, markup=False, emoji=False).print(table)

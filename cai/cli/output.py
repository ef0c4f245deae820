"""Tables on standard output."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType


def print_table(table: RenderableType, columns: int = 100) -> None:
    """Print in the terminal's width; in a file or a pipe, where there is none, in `columns` characters."""
    Console(width=None if sys.stdout.isatty() else columns).print(table)

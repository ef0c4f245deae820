"""Options that say which keys or columns of an input hold its fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from cai.errors import UsageError

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="FIELD=KEY",
        help="Read a field from another key or column, as prompt=Goal; repeatable.",
    ),
]
Choice = Annotated[
    str | None,
    typer.Option(
        metavar="FIELD",
        help="The field with the number, 0 or 1, of the better reply, where rows have several.",
    ),
]


def column_names(options: Sequence[str] | None, targets: Sequence[str] = ()) -> dict[str, str]:
    """Field -> key or column, from `--column FIELD=KEY`.

    Args:
        options: as they were given.
        targets: names of fields besides those of prompts.

    Raises:
        UsageError: one of them has another form.
    """
    from cai.data.readers import KNOWN

    fields = KNOWN | frozenset(targets)
    columns: dict[str, str] = {}
    for option in options or ():
        name, separator, key = option.partition("=")
        if not separator or name not in fields or not key:
            raise UsageError(
                f"--column {option}: write FIELD=KEY, where FIELD is one of "
                f"{', '.join(sorted(fields))}"
            )
        columns[name] = key
    return columns


def column_provenance(columns: Mapping[str, str]) -> dict[str, str]:
    """Provenance of rows that were read from `columns`: nothing, where no field is renamed."""
    pairs = (f"{name}={key}" for name, key in sorted(columns.items()))
    return {"column": ", ".join(pairs)} if columns else {}

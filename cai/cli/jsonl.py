"""The lines that the file tools read: rows of a file, with their prompt and their replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TypeVar

import typer

from cai.errors import StoreError

if TYPE_CHECKING:
    from cai.records import Prompt

FORMATS = "JSONL, JSON, CSV, Parquet, a folder or hub:OWNER/NAME#SPLIT; - is standard input (JSON)."
Input = Annotated[Path, typer.Option("--input", help=FORMATS)]
Output = Annotated[
    Path,
    typer.Option("--output", help="JSONL: the same lines with fields added; - is standard output."),
]
Prefix = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Begin the names of the added fields with this."),
]
STREAM = Path("-")
THOUGHT_FIELDS = {1: ("thought",), 2: ("first_thought", "second_thought")}
"""Replies of a line -> the fields that keep what was cut from them."""
ALL_THOUGHT_FIELDS = tuple(chain.from_iterable(THOUGHT_FIELDS.values()))


class Located(Protocol):
    """A row, and where it is from."""

    @property
    def location(self) -> str:
        """file:line"""
        ...

    @property
    def data(self) -> dict[str, Any]: ...


LocatedT = TypeVar("LocatedT", bound=Located)


class LocatedRow(NamedTuple):
    """A row as it is read."""

    location: str
    """file:line"""
    data: dict[str, Any]


class Line(NamedTuple):
    """A row with its prompt, and the replies in it."""

    location: str
    """file:line"""
    data: dict[str, Any]
    prompt: Prompt
    replies: tuple[str, ...] = ()
    """The reply that a line has, or the two of a pair, without their thoughts."""
    thoughts: tuple[str | None, ...] = ()
    """What stood before each reply as its model's thought; None: nothing."""
    no_reply: str | None = None
    """Why there is nothing to judge: a reply that ends within its thought."""

    def thought_fields(self) -> dict[str, str | None]:
        """The fields that keep the thoughts; none, if no reply has one."""
        if not any(thought is not None for thought in self.thoughts):
            return {}
        return dict(zip(THOUGHT_FIELDS[len(self.thoughts)], self.thoughts, strict=True))


def line_with_replies(
    location: str, data: dict[str, Any], prompt: Prompt, replies: Sequence[str]
) -> Line:
    """A line whose replies are apart from their thoughts."""
    from cai.modeling.thoughts import CUT_THOUGHT, split_thoughts

    splits = [split_thoughts(reply) for reply in replies]
    is_cut = any(split.lacks_reply for split in splits)
    return Line(
        location,
        data,
        prompt,
        tuple(split.text for split in splits),
        tuple(split.thought for split in splits),
        CUT_THOUGHT if is_cut else None,
    )


def read_lines(source: Path, columns: Mapping[str, str] | None = None) -> Iterator[Line]:
    """Lines with a prompt, as `cai.data.readers.prompt_rows` reads it.

    Args:
        source: a file of any format that `cai clean` reads; `-` is standard input.
        columns: field -> the key that holds it.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    from cai.data.readers import located_rows, row_prompt
    from cai.data.tables import Cells

    for location, data in located_rows(source, Cells(frozenset((columns or {}).values()))):
        yield Line(location, data, row_prompt(data, location, columns))


def read_replies(
    source: Path, columns: Mapping[str, str] | None = None, parsed: Sequence[str] = ()
) -> Iterator[Line]:
    """Lines with a prompt and a reply: `reply_line` of each row.

    Args:
        source: as for `read_lines`.
        columns: field -> the key that holds it.
        parsed: fields that hold numbers, or true and false, where all cells of a file are text.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    for row in reply_rows(source, columns, parsed):
        yield reply_line(row, columns)


def reply_rows(
    source: Path, columns: Mapping[str, str] | None = None, parsed: Sequence[str] = ()
) -> Iterator[LocatedRow]:
    """The rows of `read_replies` as they are read."""
    from cai.data.readers import located_rows
    from cai.data.tables import Cells

    names = columns or {}
    texts = frozenset(("response", names.get("response", "response")))
    cells = Cells(texts | frozenset(names.values()), texts, frozenset(parsed))
    for location, data in located_rows(source, cells):
        yield LocatedRow(location, data)


def reply_line(row: LocatedRow, columns: Mapping[str, str] | None = None) -> Line:
    """The line of a row with a prompt and a reply.

    The reply is `response`, or TRL's `completion`, or the last turn of a conversation.

    Raises:
        StoreError: the row has no prompt or no reply, as file:line.
    """
    from cai.data.readers import row_prompt
    from cai.data.replies import last_reply

    reply = last_reply(row.data, row.location, columns)
    prompt = row_prompt(row.data, row.location, columns)
    return line_with_replies(row.location, row.data, prompt, [reply])


def read_pairs(source: Path, columns: Mapping[str, str] | None = None) -> Iterator[Line]:
    """Lines with a prompt and two replies, in the shapes of `cai.data.reply_pairs`.

    Args:
        source: as for `read_lines`.
        columns: field -> the key that holds it.

    Raises:
        StoreError: a line is wrong, as file:line.
    """
    from cai.data.readers import located_rows
    from cai.data.reply_pairs import PAIR_CELLS, PairOptions, reply_pair

    options = PairOptions(columns or {}, reads_verdict=False)
    for location, data in located_rows(source, PAIR_CELLS):
        pair = reply_pair(data, location, options)
        if pair is None:
            raise StoreError(
                f"{location}: the two replies end different conversations: leave this row out"
            )
        yield line_with_replies(location, data, pair.prompt, (pair.first, pair.second))

"""Demonstrations: conversations with the reply that a person, or another model, gave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cai.data.readers import located_rows, row_prompt
from cai.data.replies import last_reply
from cai.data.tables import Cells
from cai.errors import StoreError
from cai.records import Prompt

RESPONSE = frozenset(("response",))


class Demonstration(NamedTuple):
    """A conversation up to the user's last turn, and the reply to it."""

    prompt: Prompt
    reply: str


def demonstrations(path: Path) -> Iterator[Demonstration]:
    """Demonstrations of one file or folder, in order.

    A row is one that `cai.data.readers.prompt_rows` reads, with the reply as `response` (text), as
    TRL's `completion`, or as the last turn of its conversation.

    Raises:
        StoreError: a row is wrong, or its reply is missing or blank; the message begins with
            file:row. Or the file has no row.
    """
    location = None
    for location, row in located_rows(path, Cells(RESPONSE, RESPONSE)):
        reply = last_reply(row, location, None)
        if not reply.strip():
            raise StoreError(f"{location}: the reply is empty: a demonstration needs one")
        yield Demonstration(row_prompt(row, location), reply.strip())
    if location is None:
        raise StoreError(f"{path}: no demonstration in it")

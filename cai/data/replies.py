"""The reply in a row with one: `response`, TRL's `completion`, or the end of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai.data.conversations import CHAT_FIELDS, final_turn, reply_text
from cai.errors import StoreError


def last_reply(row: Mapping[str, Any], location: str, columns: Mapping[str, str] | None) -> str:
    """The text of the reply in a row.

    Args:
        row: as `cai.data.readers.located_rows` yields it.
        location: of the row, which begins the error message.
        columns: field -> the key that holds it; None where no option can say so.

    Raises:
        StoreError: there is none, or `response` differs from the turn with which the row's
            conversation ends.
    """
    names = columns or {}
    key = names.get("response", "response")
    if key not in row and names.get("completion", "completion") in row:
        key = names.get("completion", "completion")
    value = row.get(key)
    reply = reply_text(value, location)
    turns = (final_turn(row.get(names.get(name, name)), location) for name in CHAT_FIELDS)
    final = next((text for text in turns if text is not None), None)
    if reply is None and value is None and key not in row:
        reply = final
    if reply is None:
        hint = "" if columns is None else ": name its key, as in --column response=answer"
        raise StoreError(
            f"{location}: a line needs `response` (text), or turns that end with one of the "
            f"assistant{hint}"
        )
    if final is not None and final.strip() != reply.strip():
        raise StoreError(
            f"{location}: `{key}` is not the reply with which the row's turns end: "
            "leave one of them out"
        )
    return reply

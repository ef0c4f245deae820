"""The reply in a row with one: `response`, TRL's `completion`, or the end of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai.data.conversations import CHAT_FIELDS, normalized_turns
from cai.errors import StoreError


def last_reply(row: Mapping[str, Any], location: str, columns: Mapping[str, str]) -> str:
    """The text of the reply in a row.

    Args:
        row: as `cai.data.readers.located_rows` yields it.
        location: of the row, which begins the error message.
        columns: field -> the key that holds it.

    Raises:
        StoreError: there is none, or `response` differs from the turn with which the row's
            conversation ends.
    """
    key = columns.get("response", "response")
    if key not in row and columns.get("completion", "completion") in row:
        key = columns.get("completion", "completion")
    value = row.get(key)
    reply = value if isinstance(value, str) else _final_turn(value, location)
    turns = (_final_turn(row.get(columns.get(name, name)), location) for name in CHAT_FIELDS)
    final = next((text for text in turns if text is not None), None)
    if reply is None and value is None and key not in row:
        reply = final
    if reply is None:
        raise StoreError(
            f"{location}: a line needs `response` (text), or turns that end with one of the "
            "assistant"
        )
    if final is not None and final.strip() != reply.strip():
        raise StoreError(
            f"{location}: `{key}` is not the reply with which the row's turns end: "
            "leave one of them out"
        )
    return reply


def _final_turn(value: Any, location: str) -> str | None:
    """The text of an assistant's turn at the end of a list of turns."""
    turns = normalized_turns(value, location) if isinstance(value, list) else []
    last = turns[-1] if turns else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    content = last.get("content")
    return content if isinstance(content, str) else None

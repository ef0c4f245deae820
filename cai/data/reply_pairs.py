"""Rows with two replies to a prompt, in the shapes of preference data sets.

prompt or turns, first, second (, p_first)          `cai label`
(prompt,) chosen, rejected (, p_chosen)             TRL, UltraFeedback, hh-rlhf, `cai export`
prompt, response_0, response_1, better_response_id or safer_response_id     PKU-SafeRLHF
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cai.data.conversations import (
    chat_of_field,
    dialogue_turns,
    final_turn,
    normalized_turns,
    reply_text,
)
from cai.data.readers import FIELDS, row_prompt
from cai.data.tables import Cells
from cai.errors import StoreError
from cai.records import Prompt
from cai.store import parse_row

_LAST_TURN = "\n\nAssistant:"
CHOICES = ("better_response_id", "safer_response_id")
"""Fields with the number, 0 or 1, of the better of two replies."""
PROBABILITIES = ("p_first", "p_chosen")
REPLY_FIELDS = ("first", "second", "response_0", "response_1", "chosen", "rejected")
PAIR_CELLS = Cells(
    known=frozenset(REPLY_FIELDS),
    texts=frozenset(("first", "second", "response_0", "response_1")),
    parsed=frozenset((*PROBABILITIES, *CHOICES, "votes", "human")),
)
"""How pairs are read from CSV files."""
SHAPES = (
    "`prompt` with `first` and `second`, `chosen` and `rejected` (replies or dialogues), or "
    "`response_0` and `response_1`"
)


@dataclass(frozen=True)
class PairOptions:
    """How the rows of others are read."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Field -> the key that holds it, in rows that have that key."""
    choice: str | None = None
    """The field with the number of the better reply, where rows have several such fields."""
    reads_verdict: bool = True
    """False: only the replies are wanted."""


DEFAULT_OPTIONS = PairOptions()


class ReplyPair(NamedTuple):
    """Two replies to a prompt."""

    prompt: Prompt
    first: str
    second: str
    p_first: float | None
    """P(first is better); None where the row has no verdict."""


def reply_pair(
    row: dict[str, Any], location: str, options: PairOptions = DEFAULT_OPTIONS
) -> ReplyPair | None:
    """The two replies in a row, with its verdict; None where they are about different
    conversations, as in a few rows of hh-rlhf.

    Args:
        row: as `cai.data.readers.located_rows` yields it.
        location: of the row, which begins the error message.
        options: names of fields.

    Raises:
        StoreError: the row has none of the shapes, or a value is wrong.
    """
    row = _renamed_replies(row, options.columns)
    if row.get("response_0") is not None:
        prompt = row_prompt(row, location, options.columns)
        replies = _texts(row, ("response_0", "response_1"), location)
        verdict = _choice(row, options.choice, location) if options.reads_verdict else None
        return ReplyPair(prompt, *replies, verdict)
    if row.get("chosen") is None:
        prompt_fields = {key: value for key, value in row.items() if key not in REPLY_FIELDS}
        replies = _texts(row, ("first", "second"), location)
        prompt = row_prompt(prompt_fields, location, options.columns)
        return ReplyPair(prompt, *replies, probability(row.get("p_first"), location))
    if row.get("prompt") is None and not isinstance(row["chosen"], list):
        return _from_dialogues(row, location)
    return _from_turns(row, location)


def _renamed_replies(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    targets = (*REPLY_FIELDS, *PROBABILITIES)
    named = {name: key for name, key in columns.items() if name in targets and key in row}
    return row | {name: row[key] for name, key in named.items()}


def _texts(row: Mapping[str, Any], names: tuple[str, str], location: str) -> tuple[str, str]:
    first, second = (reply_text(row.get(name), location) for name in names)
    if first is not None and second is not None:
        return first, second
    missing = names[0] if first is None else names[1]
    raise StoreError(
        f"{location}: a row needs `{missing}` (text): the shapes of pairs are {SHAPES}"
    )


def _choice(row: Mapping[str, Any], name: str | None, location: str) -> float | None:
    """P(first is better) by the number of the better reply."""
    present = [key for key in CHOICES if row.get(key) is not None]
    if name is None and len(present) > 1:
        raise StoreError(
            f"{location}: both `{present[0]}` and `{present[1]}` name a better reply: say which "
            f"one to read (--choice {present[1]}), or leave the other out of the file"
        )
    key = name or (present[0] if present else None)
    if key is None or row.get(key) is None:
        return None
    number = row[key]
    if isinstance(number, bool) or number not in (0, 1):
        raise StoreError(f"{location}: `{key}` must be 0 or 1, found {number!r}")
    return float(number == 0)


def _from_turns(data: dict[str, Any], location: str) -> ReplyPair | None:
    """`chosen` and `rejected` as replies beside `prompt`, or as turns that end with them."""
    before_chosen, chosen = _split_reply(data, "chosen", location)
    before_rejected, rejected = _split_reply(data, "rejected", location)
    if before_chosen != before_rejected:
        return None
    chat = before_chosen or chat_of_field("prompt", data.get("prompt"), location)
    fields = {name: data[name] for name in FIELDS if data.get(name) is not None}
    prompt = parse_row(fields | {"chat": chat}, Prompt, location)
    p_chosen = probability(data.get("p_chosen", 1.0), location, "p_chosen")
    return ReplyPair(prompt, chosen, rejected, p_chosen)


def _split_reply(data: dict[str, Any], name: str, location: str) -> tuple[list[Any], str]:
    """(the turns before the reply, if they are given; the reply)."""
    value = data.get(name)
    reply = reply_text(value, location)
    if reply is None:
        raise StoreError(
            f"{location}: `{name}` must be a reply, or turns that end with one of the assistant"
        )
    if isinstance(value, list) and final_turn(value, location) is not None:
        return normalized_turns(value, location)[:-1], reply
    return [], reply


def _from_dialogues(data: dict[str, Any], location: str) -> ReplyPair | None:
    """None: the two dialogues differ before the last turn."""
    chosen_prompt, chosen = _split_last_turn(data, "chosen", location)
    rejected_prompt, rejected = _split_last_turn(data, "rejected", location)
    if chosen_prompt != rejected_prompt:
        return None
    prompt = parse_row({"chat": dialogue_turns(chosen_prompt, location)}, Prompt, location)
    return ReplyPair(prompt, chosen, rejected, 1.0)


def _split_last_turn(data: dict[str, Any], name: str, location: str) -> tuple[str, str]:
    """(the dialogue before the last assistant turn, the text of that turn)."""
    dialogue = data.get(name)
    if not isinstance(dialogue, str) or _LAST_TURN not in dialogue:
        raise StoreError(
            f"{location}: `{name}` must be a dialogue that ends with an Assistant: turn"
        )
    before, _, reply = dialogue.rpartition(_LAST_TURN)
    return before, reply.strip()


def probability(value: Any, location: str, key: str = "p_first") -> float | None:
    """A probability in a row.

    Raises:
        StoreError: it is neither one nor null.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StoreError(f"{location}: `{key}` must be a probability or null, found {value!r}")
    return float(value)

"""Conversations in the shapes of input rows: text, turns, ShareGPT, dialogues of hh-rlhf."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cai.errors import StoreError
from cai.records import Message

CHAT_FIELDS = (
    "prompt",
    "chat",
    "messages",
    "conversations",
    "conversation",
    "chosen",
    "transcript",
)
"""Fields that hold the chat of an input row."""
DIALOGUE_FIELDS = ("chosen", "transcript")
"""Of these, the fields that may hold a "Human: ... Assistant: ..." dialogue."""
ROLES = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
"""Role in other formats -> ours."""
TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython")
"""Roles of turns that are left out: what a tool was asked, and what it answered."""


def chat_from(data: Mapping[str, Any], location: str) -> Any:
    """The chat of an input row, which has exactly one of `CHAT_FIELDS` (null ones don't count).

    `prompt` is text or turns; `chosen` is a dialogue, or turns of which the last is the reply; the
    others are turns.

    Args:
        location: file:row, which begins the error message.

    Raises:
        StoreError: the row has none or several of the fields, or one of the wrong type.
    """
    keys = [key for key in CHAT_FIELDS if data.get(key) is not None]
    if len(keys) != 1:
        raise StoreError(
            f"{location}: a row needs either `prompt` (text) or `chat` (a list of role and content)"
        )
    return chat_of_field(keys[0], data[keys[0]], location)


def chat_of_field(key: str, value: Any, location: str) -> Any:
    """The chat in the field `key`; the types inside its turns are left to the row's check."""
    if isinstance(value, str):
        if key == "prompt":
            return (Message(role="user", content=value),)
        if key in DIALOGUE_FIELDS:
            return dialogue_turns(value, location, key)
    if key == "prompt" and _are_parts(value):
        return (Message(role="user", content=str(_joined_parts(value, location))),)
    if isinstance(value, Sequence) and not isinstance(value, str):
        turns = normalized_turns(value, location)
        return up_to_user(turns) if key == "chosen" else turns
    expected = (
        "text" if key in ("prompt", *DIALOGUE_FIELDS) else "a list of turns (role and content)"
    )
    hint = "" if "text" in expected else ": conversations are read from JSONL and Parquet"
    raise StoreError(f"{location}: `{key}` must be {expected}, found {type(value).__name__}{hint}")


def normalized_turns(turns: Sequence[Any], location: str) -> list[Any]:
    """Turns as role and content, without those of tools and their other keys.

    ShareGPT's `from` and `value` are read as `role` and `content`, and parts of text are joined.
    """
    normalized: list[Any] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            normalized.append(turn)
            continue
        role = turn.get("role", turn.get("from"))
        role = ROLES.get(role, role) if isinstance(role, str) else role
        content = turn.get("content", turn.get("value"))
        if role in TOOL_ROLES or (role == "assistant" and content is None):
            continue  # a turn without content asks for a tool
        normalized.append({"role": role, "content": _joined_parts(content, location)})
    return normalized


def reply_text(value: Any, location: str) -> str | None:
    """A reply: text, parts of text, a turn of the assistant, or turns that end with one.

    Args:
        value: of a field that holds a reply.
        location: file:row, which begins the error message.

    Returns:
        None where it is none of these.

    Raises:
        StoreError: a part is not text.
    """
    if isinstance(value, str):
        return value
    if _are_parts(value):
        return str(_joined_parts(value, location))
    return final_turn([value] if isinstance(value, Mapping) else value, location)


def final_turn(value: Any, location: str) -> str | None:
    """The text of an assistant's turn at the end of a list of turns; None if there is none."""
    turns = normalized_turns(value, location) if isinstance(value, list) else []
    last = turns[-1] if turns else None
    if not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    content = last.get("content")
    return content if isinstance(content, str) else None


def _are_parts(value: Any) -> bool:
    """Whether it is a list of a text's parts, as `{"type": "text", "text": …}`: not of turns."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return False
    return all(
        isinstance(part, Mapping) and "type" in part and "role" not in part for part in value
    )


def _joined_parts(content: Any, location: str) -> Any:
    """Content in parts as one text; other content as it is."""
    if isinstance(content, str) or not isinstance(content, Sequence):
        return content
    texts = []
    for part in content:
        text = part if isinstance(part, str) else None
        if isinstance(part, Mapping):
            text = part.get("text")
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise StoreError(f"{location}: a turn has a part that is not text ({kind})")
        texts.append(text)
    return "".join(texts)


def up_to_user(turns: Sequence[Any]) -> list[Any]:
    """The turns without the replies after the last user turn; all of them if there is no such."""
    users = [
        index
        for index, turn in enumerate(turns)
        if isinstance(turn, Mapping) and turn.get("role") == "user"
    ]
    return list(turns[: users[-1] + 1]) if users else list(turns)


def dialogue_turns(dialogue: str, location: str, key: str = "chosen") -> tuple[Message, ...]:
    """The turns of a "Human: ... Assistant: ..." dialogue, up to the last human turn."""
    start, *labelled = re.split(r"(?:^|\n\n)(Human|Assistant):[ \t]*", dialogue)
    roles = {"Human": "user", "Assistant": "assistant"}
    chat = [
        Message(role=roles[label], content=text.strip())
        for label, text in zip(labelled[::2], labelled[1::2], strict=True)
    ]
    while chat and chat[-1].role != "user":
        chat.pop()
    if start.strip() or not chat:
        raise StoreError(f"{location}: `{key}` must be a dialogue that begins with Human:")
    return tuple(chat)

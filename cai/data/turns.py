"""Turns that a prompted baseline begins with, from a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cai import store
from cai.data.text_files import text_blocks
from cai.errors import StoreError, UsageError
from cai.records import Chat, Message, chat_of


def read_turns(file: Path) -> Chat:
    """Turns of a .jsonl file, or the text of a .txt file as a system turn.

    Raises:
        StoreError: a line is no turn; the message begins with file:line.
        UsageError: another kind of file.
    """
    if file.suffix == ".txt":
        return chat_of(("system", "".join(text_blocks(file)).strip()))
    if file.suffix != ".jsonl":
        raise UsageError(f"{file}: give a system turn (.txt) or turns (.jsonl)")
    turns = []
    for number, data in store.json_lines(file):
        try:
            turns.append(Message.model_validate(data))
        except ValidationError:
            raise StoreError(
                f"{file}:{number}: a turn has `role` (system, user or assistant) and `content`"
            ) from None
    return tuple(turns)


def with_turns(turns: Chat, chat: Chat) -> Chat:
    """`chat` after a subject's own turns. Two system turns become one."""
    if turns and chat and turns[0].role == chat[0].role == "system":
        text = f"{turns[0].content}\n\n{chat[0].content}"
        return (Message(role="system", content=text), *turns[1:], *chat[1:])
    return (*turns, *chat)

"""Replies and messages in what a model wrote for a template: without fences, labels and remarks."""

from __future__ import annotations

import re

PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok)[,.!:]?\s*)?"
    r"(?:here(?:['’]s| is| are)\b[^:\n]{0,80}:"
    r"|(?:the )?(?:new|revised|rewritten|improved|corrected) (?:reply|response|version|answer)"
    r"[^:\n]{0,40}:)\s*",
    re.IGNORECASE,
)
"""An announcement before the reply: "Sure, here is the revised reply:"."""
FENCED = re.compile(r"^(`{3,})[^\n`]*\n(.*?)(?:(?<=\n)\1|\Z)", re.DOTALL)
"""A fenced block at the start of the text; its closing fence may be missing."""
FENCE_LINE = re.compile(r"^[ \t]*(?P<ticks>`{3,})(?P<info>[^`\n]*)$", re.MULTILINE)
"""A line that opens or closes a fence."""
LABEL = re.compile(r"^(?:assistant|ai|revision|reply|response|answer)\s*:\s*", re.IGNORECASE)
SENTENCE_END = re.compile(
    r"[.!?][\"')\]]*(?=\s|$)"
    r"|[。！？｡][」』”’）】》]*"  # Chinese and Japanese, with the marks that close a quotation
    r"|[।॥؟۔։።။។༎᙮][\"'”’»)]*"  # Hindi, Arabic, Urdu, Armenian, Amharic, Burmese, Khmer, …
)
MESSAGE_PREFIX = re.compile(
    r"^(?:\d+[.)]|[-*•])\s+|^(?:user|message|category)\s*:\s*", re.IGNORECASE
)
"""A list number, a bullet or a label before a message."""


def parse_reply(text: str, *, finished: bool) -> str | None:
    """The reply in a model's answer, without fences, labels and announcements.

    Args:
        text: what the model generated.
        finished: False if it was cut at the token limit: its last, incomplete sentence is removed.

    Returns:
        The reply; None when nothing is left.
    """
    body = text.strip()
    body = body[: _stray_fence(body)].strip()
    for _ in range(3):
        fenced = FENCED.match(body)  # text after the closing fence is a comment on the reply
        inner = fenced[2].strip() if fenced else body
        stripped = LABEL.sub("", PREAMBLE.sub("", inner)).strip()
        if stripped == body:
            break
        body = stripped
    if len(body) > 1 and body[0] == body[-1] == '"' and '"' not in body[1:-1]:
        body = body[1:-1].strip()
    if not finished:
        body = complete_sentences(body)
    return body or None


def parse_first_reply(text: str, *, finished: bool) -> str | None:
    """The reply in a model's answer to a user's own message, as the model wrote it.

    No template asked for it, so there is no announcement, label or fence to remove: what looks
    like one ("Here are three tips:", a block of code) is part of the reply.

    Args:
        text: what the model generated.
        finished: False if it was cut at the token limit: its last, incomplete sentence is removed.

    Returns:
        The reply; None when nothing is left.
    """
    body = text.strip()
    return (body if finished else complete_sentences(body)) or None


def _stray_fence(text: str) -> int | None:
    """Index of a fence that is neither announced by a colon nor closed; None if there is none.

    The model closes the fence of the question with it; the rest is a comment on the reply.
    """
    opening: re.Match[str] | None = None
    for line in FENCE_LINE.finditer(text):
        if opening is None:
            opening = line
        elif len(line["ticks"]) >= len(opening["ticks"]) and not line["info"].strip():
            opening = None
    if opening is None or opening["info"].strip():
        return None
    before = text[: opening.start()].strip()
    return opening.start() if before and not before.endswith(":") else None


def complete_sentences(text: str) -> str:
    """`text` up to its last sentence end; empty when it has none.

    The "1." that begins a list item ends no sentence. The time is linear in the text's length.
    """
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    last = next((end for end in reversed(ends) if not _ends_list_number(text, end)), 0)
    return text[:last].strip()


def _ends_list_number(text: str, end: int) -> bool:
    """Whether `text[:end]` ends with a line that is a number and a full stop."""
    if text[end - 1] != ".":
        return False
    start = end - 1
    while start > 0 and text[start - 1].isdecimal():
        start -= 1
    if start == end - 1:
        return False
    while start > 0 and text[start - 1].isspace() and text[start - 1] != "\n":
        start -= 1
    return start == 0 or text[start - 1] == "\n"


def parse_message(text: str, *, finished: bool) -> str | None:
    """The first line of the answer, without list numbers, labels and quotes.

    Args:
        text: what the model generated.
        finished: False if it was cut at the token limit: an incomplete sentence is then removed.

    Returns:
        The message; None when nothing is left.
    """
    reply = parse_reply(text, finished=True) or ""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    message = MESSAGE_PREFIX.sub("", lines[0] if lines else "").strip().strip('"')
    if not finished and "\n" not in reply.strip():
        message = complete_sentences(message)
    return message or None

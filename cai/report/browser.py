"""The replies that the page's browser of replies searches, as JSON inside the page.

A bounded number of prompts, each with the replies of all subjects side by side. Which of a run's
prompts they are is decided by their ids, which are hashes of content, so nobody picks them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cai.artifacts import subjects_of
from cai.records import EvalReply

MAX_PROMPTS = 1000
"""Prompts, each draw counted by itself, that the page holds."""
MAX_CHARS = 4_000
"""Of one text; the rest is cut, with a line that says so."""
MAX_TOTAL_CHARS = 3_000_000
"""Of all texts: prompts after it are left out, like those after `MAX_PROMPTS`."""


@dataclass(frozen=True)
class BrowserData:
    shown: int
    """Prompts in the page, each draw counted by itself."""
    total: int
    """Prompts in the file, counted likewise."""
    json: str
    """`{"subjects": […], "rows": […]}` for a <script> element that is not executed."""


Group = list[EvalReply]


def browser_data(replies: Iterable[EvalReply], clean: Callable[[object], str]) -> BrowserData:
    """The first prompts by id with their replies; `replies` may be a stream.

    Args:
        clean: makes a text printable.
    """
    groups, total = _first_groups(replies)
    subjects = subjects_of(reply.subject for group in groups for reply in group)
    rows: list[dict[str, Any]] = []
    room = MAX_TOTAL_CHARS
    for group in groups:
        row = _row(group, subjects, clean)
        room -= sum(map(len, _texts(row)))
        if room < 0:
            break
        rows.append(row)
    content = {"subjects": [clean(subject) for subject in subjects], "rows": rows}
    return BrowserData(len(rows), total, script_json(content))


def script_json(content: object) -> str:
    """JSON that cannot end or open an element: `<`, `>` and `&` are escapes inside its strings."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _first_groups(replies: Iterable[EvalReply]) -> tuple[list[Group], int]:
    """(the replies to each of the first `MAX_PROMPTS` prompts, number of prompts)."""
    groups: dict[tuple[str, int], Group] = {}
    keys: set[tuple[str, int]] = set()
    for reply in replies:
        key = (reply.source, reply.draw)
        keys.add(key)
        groups.setdefault(key, []).append(reply)
        # A key that is dropped has MAX_PROMPTS smaller ones, so its later replies do not matter.
        if len(groups) > 2 * MAX_PROMPTS:
            groups = {key: groups[key] for key in sorted(groups)[:MAX_PROMPTS]}
    return [groups[key] for key in sorted(groups)[:MAX_PROMPTS]], len(keys)


def _row(group: Group, subjects: list[str], clean: Callable[[object], str]) -> dict[str, Any]:
    def text(value: object) -> str:
        cleaned = clean(value)
        if len(cleaned) <= MAX_CHARS:
            return cleaned
        return f"{cleaned[:MAX_CHARS]}… [cut: {len(cleaned):,} characters]"

    first = group[0]
    return {
        "kind": first.kind,
        "category": None if first.category is None else text(first.category),
        "draw": first.draw,
        "prompt": [[turn.role, text(turn.content)] for turn in first.chat],
        "replies": [
            {
                "subject": subjects.index(reply.subject),
                "text": text(reply.response),
                "class": None if reply.grade.class_ is None else text(reply.grade.class_),
                "style": reply.grade.style,
                "degree": reply.grade.degree,
                "correct": reply.grade.correct,
                "unscored": None if reply.grade.unscored is None else text(reply.grade.unscored),
                "finished": reply.finished,
                "reward": None if reply.reward is None else round(reply.reward, 2),
            }
            for reply in sorted(group, key=lambda reply: subjects.index(reply.subject))
        ],
    }


def _texts(row: dict[str, Any]) -> list[str]:
    return [content for _, content in row["prompt"]] + [reply["text"] for reply in row["replies"]]

"""Preferences that somebody else made, as rows: what `cai label` writes, or hh-rlhf dialogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cai.data.filters import EVALUATED, HygieneConfig, Rules
from cai.data.readers import FIELDS, asked, chat_from, prompt_rows
from cai.errors import StoreError
from cai.records import Message, Prompt, TrainingChat
from cai.store import json_lines, parse_row

BY_PRINCIPLE = "principle"
_LAST = "\n\nAssistant:"


class LabelledPair(NamedTuple):
    """One verdict on two replies to a prompt."""

    prompt: Prompt
    first: str
    second: str
    p_first: float
    """P(first is the better one)."""
    number: int
    """Of the row in its file, from 1."""
    group: str | None
    """Who gave it: a principle, a person, a source; None where nobody asked."""


def labelled_pairs(path: Path, by: str | None = None, passed_over: Counter[str] | None = None) -> Iterator[LabelledPair]:
    """Verdicts of a JSONL file, in order. Rows without one (`p_first` null), and the few of hh-rlhf whose two dialogues part ways
    before the last turn, are passed over.

    A row has `prompt` or `chat`, `first`, `second` and `p_first`; or `chosen` and `rejected`, dialogues of "Human:" and
    "Assistant:" turns that share all but the last turn.

    Args:
        by: field whose value is the group; `principle`: one verdict per vote of a row, grouped by its principle.
        passed_over: reason -> rows, counted up.

    Raises:
        StoreError: a row is wrong, or has no such field, as file:line.
    """
    for number, data in json_lines(path):
        place = f"{path}:{number}"
        counts = Counter[str]() if passed_over is None else passed_over
        told = _dialogue(data, place) if "chosen" in data else _labelled(data, place)
        if told is None:
            counts["`chosen` and `rejected` are about different conversations"] += 1
            continue
        prompt, first, second, p_first = told
        if by == BY_PRINCIPLE:
            for principle, p in _votes(data, place):
                yield LabelledPair(prompt, first, second, p, number, principle)
        elif p_first is None:
            counts["no verdict (`p_first` is null)"] += 1
        else:
            if by is not None and not isinstance(data.get(by), str | int):
                raise StoreError(f"{place}: a row needs `{by}` (text or a number), by which rows are grouped")
            yield LabelledPair(prompt, first, second, p_first, number, None if by is None else str(data[by]))


def clean_labelled_pairs(
    rows: Iterable[LabelledPair], config: HygieneConfig, against: Sequence[Path]
) -> tuple[list[LabelledPair], Counter[str]]:
    """Verdicts that may be trained on, masked where that is asked for, and how many went for which reason.

    What `config` says of languages and personal data holds for prompt and replies. No user turn and no reply may share a run of
    words with the last turn of a prompt in the files `against`, which are for evaluation; a short one must not be said again.
    """
    rules = Rules(config.of_training_rows, len, (prompt.chat[-1].content for file in against for prompt in prompt_rows(file)))
    left, gone = list[LabelledPair](), Counter[str]()
    for row in rows:
        said = [
            TrainingChat(chat=(*row.prompt.chat, Message(role="assistant", content=text))) for text in (row.first, row.second)
        ]
        (prompt, why), (first, why_first), (second, why_second) = rules.judge(row.prompt), *map(rules.judge, said)
        turns = [*(m.content for m in row.prompt.chat if m.role == "user"), row.first, row.second]
        if reason := (EVALUATED if any(map(rules.knows, turns)) else why or why_first or why_second):
            gone[reason] += 1
        else:
            left.append(row._replace(prompt=prompt, first=first.chat[-1].content, second=second.chat[-1].content))
    return left, gone


def _labelled(data: dict[str, Any], place: str) -> tuple[Prompt, str, str, float | None]:
    for name in ("first", "second"):
        if not isinstance(data.get(name), str):
            raise StoreError(f"{place}: a row needs `{name}` (text), or `chosen` and `rejected` (dialogues)")
    known = {name: data[name] for name in FIELDS if data.get(name) is not None}
    told: dict[str, Any] = {name: data[name] for name in ("prompt", "chat", "messages") if name in data}
    prompt = parse_row(known | {"chat": chat_from(told, place)}, Prompt, place)
    return prompt, data["first"], data["second"], _probability(data.get("p_first"), place)


def _dialogue(data: dict[str, Any], place: str) -> tuple[Prompt, str, str, float] | None:
    """None: the two are about different conversations."""
    said = []
    for name in ("chosen", "rejected"):
        if not isinstance(data.get(name), str) or _LAST not in data[name]:
            raise StoreError(f"{place}: `{name}` must be a dialogue that ends with an Assistant: turn")
        said.append(data[name].rpartition(_LAST))
    if said[0][0] != said[1][0]:
        return None
    return Prompt(chat=asked(said[0][0], place)), said[0][2].strip(), said[1][2].strip(), 1.0


def _votes(data: dict[str, Any], place: str) -> Iterator[tuple[str, float]]:
    votes = data.get("votes")
    if not isinstance(votes, list) or not all(
        isinstance(vote, dict) and isinstance(vote.get("principle"), str) for vote in votes
    ):
        raise StoreError(f"{place}: a row needs `votes`, as `cai label` writes them, to be grouped by principle")
    for vote in votes:
        p = _probability(vote.get("p_first"), place)
        if p is not None:
            yield vote["principle"], p


def _probability(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StoreError(f"{place}: `p_first` must be a probability or null, found {value!r}")
    return float(value)

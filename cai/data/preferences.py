"""Readers of preference data from outside: rows of `cai label`, or hh-rlhf dialogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cai.data.conversations import chat_of_field, normalized_turns
from cai.data.filters import IN_EVALUATION, HygieneConfig, PromptFilters
from cai.data.readers import FIELDS, chat_from, dialogue_turns, input_rows, prompt_rows
from cai.errors import StoreError
from cai.records import Message, Prompt, TrainingChat
from cai.store import parse_row

BY_PRINCIPLE = "principle"
_LAST_TURN = "\n\nAssistant:"
DIFFERENT_PROMPTS = "`chosen` and `rejected` are about different conversations"
EQUAL_REPLIES = "`chosen` and `rejected` are equal"
NO_VERDICT = "no verdict (`p_first` is null)"


class LabelledPair(NamedTuple):
    """One verdict on two replies to a prompt."""

    prompt: Prompt
    first: str
    second: str
    p_first: float
    """P(first is better than second)."""
    number: int
    """Of the row in its file, from 1."""
    group: str | None
    """Source of the verdict: a principle, a person, a data set; None if no field was named."""


class _Comparison(NamedTuple):
    """One row of a preference file, with or without a verdict."""

    prompt: Prompt
    first: str
    second: str
    p_first: float | None


def labelled_pairs(
    path: Path, by: str | None = None, passed_over: Counter[str] | None = None
) -> Iterator[LabelledPair]:
    """Verdicts of a file, in order.

    A row has `prompt` or `chat`, `first`, `second` and `p_first`; or `chosen` and `rejected`:
    dialogues of "Human:" and "Assistant:" turns that share all but the last turn, lists of turns
    that do, or, beside `prompt`, replies. `p_chosen`, as `cai export` writes it, is 1 by default.
    Three kinds of rows are skipped: those without a verdict (`p_first` is null), the few of
    hh-rlhf whose two dialogues differ before the last turn, and those whose replies are equal.

    Args:
        by: field whose value is the group; `principle`: one verdict per vote of a row, grouped by
            its principle.
        passed_over: reason -> skipped rows; counted up in place.

    Raises:
        StoreError: a row is wrong, or lacks the field `by`; the message begins with file:line.
    """
    skipped = Counter[str]() if passed_over is None else passed_over
    for number, data in input_rows(path):
        location = f"{path}:{number}"
        row = _comparison(data, location)
        if row is None:
            skipped[DIFFERENT_PROMPTS] += 1
            continue
        if "chosen" in data and row.first == row.second:
            skipped[EQUAL_REPLIES] += 1
            continue
        prompt, first, second, p_first = row
        if by == BY_PRINCIPLE:
            for principle, p in _votes(data, location):
                yield LabelledPair(prompt, first, second, p, number, principle)
        elif p_first is None:
            skipped[NO_VERDICT] += 1
        else:
            group = None if by is None else _group(data, by, location)
            yield LabelledPair(prompt, first, second, p_first, number, group)


def clean_labelled_pairs(
    rows: Iterable[LabelledPair], config: HygieneConfig, against: Sequence[Path]
) -> tuple[list[LabelledPair], Counter[str]]:
    """(verdicts to train on, masked where the configuration says so; reason -> dropped rows).

    The filters on languages and personal data apply to the prompt and to both replies. No user
    turn and no reply may share a run of words with the last turn of a prompt in the files
    `against`, which are for evaluation. A last turn shorter than that run must not be repeated.
    """
    evaluation = (prompt.chat[-1].content for file in against for prompt in prompt_rows(file))
    rules = PromptFilters(config.for_training_rows, len, evaluation)
    clean: list[LabelledPair] = []
    dropped = Counter[str]()
    for row in rows:
        cleaned, reason = _judge_pair(rules, row)
        if reason:
            dropped[reason] += 1
        else:
            clean.append(cleaned)
    return clean, dropped


def _judge_pair(rules: PromptFilters, row: LabelledPair) -> tuple[LabelledPair, str | None]:
    """(the row, masked if necessary; the reason against it, or None)."""
    prompt, prompt_reason = rules.judge(row.prompt)
    first, first_reason = rules.judge(_with_reply(row.prompt, row.first))
    second, second_reason = rules.judge(_with_reply(row.prompt, row.second))
    user_turns = [m.content for m in row.prompt.chat if m.role == "user"]
    if any(rules.overlaps_evaluation(text) for text in (*user_turns, row.first, row.second)):
        return row, IN_EVALUATION
    cleaned = row._replace(
        prompt=prompt, first=first.chat[-1].content, second=second.chat[-1].content
    )
    return cleaned, prompt_reason or first_reason or second_reason


def _with_reply(prompt: Prompt, reply: str) -> TrainingChat:
    return TrainingChat(chat=(*prompt.chat, Message(role="assistant", content=reply)))


def _from_fields(data: dict[str, Any], location: str) -> _Comparison:
    for name in ("first", "second"):
        if not isinstance(data.get(name), str):
            raise StoreError(
                f"{location}: a row needs `{name}` (text), or `chosen` and `rejected` (dialogues)"
            )
    fields = {name: data[name] for name in FIELDS if data.get(name) is not None}
    input_fields: dict[str, Any] = {
        name: data[name] for name in ("prompt", "chat", "messages") if name in data
    }
    prompt = parse_row(fields | {"chat": chat_from(input_fields, location)}, Prompt, location)
    p_first = _probability(data.get("p_first"), location)
    return _Comparison(prompt, data["first"], data["second"], p_first)


def _comparison(data: dict[str, Any], location: str) -> _Comparison | None:
    """None: `chosen` and `rejected` are about different conversations."""
    if data.get("chosen") is None:
        return _from_fields(data, location)
    if data.get("prompt") is None and not isinstance(data["chosen"], list):
        return _from_dialogues(data, location)
    return _from_turns(data, location)


def _from_turns(data: dict[str, Any], location: str) -> _Comparison | None:
    """`chosen` and `rejected` as replies beside `prompt`, or as turns that end with them."""
    before_chosen, chosen = _split_reply(data, "chosen", location)
    before_rejected, rejected = _split_reply(data, "rejected", location)
    if before_chosen != before_rejected:
        return None
    chat = before_chosen or chat_of_field("prompt", data.get("prompt"), location)
    fields = {name: data[name] for name in FIELDS if data.get(name) is not None}
    prompt = parse_row(fields | {"chat": chat}, Prompt, location)
    p_chosen = _probability(data.get("p_chosen", 1.0), location, "p_chosen")
    return _Comparison(prompt, chosen, rejected, p_chosen)


def _split_reply(data: dict[str, Any], name: str, location: str) -> tuple[list[Any], str]:
    """(the turns before the reply, if they are given; the reply)."""
    value = data.get(name)
    if isinstance(value, str):
        return [], value
    turns = normalized_turns(value, location) if isinstance(value, list) else []
    last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
    reply = last.get("content")
    if last.get("role") != "assistant" or not isinstance(reply, str):
        raise StoreError(
            f"{location}: `{name}` must be a reply, or turns that end with one of the assistant"
        )
    return turns[:-1], reply


def _from_dialogues(data: dict[str, Any], location: str) -> _Comparison | None:
    """None: the two dialogues differ before the last turn."""
    chosen_prompt, chosen = _split_last_turn(data, "chosen", location)
    rejected_prompt, rejected = _split_last_turn(data, "rejected", location)
    if chosen_prompt != rejected_prompt:
        return None
    return _Comparison(Prompt(chat=dialogue_turns(chosen_prompt, location)), chosen, rejected, 1.0)


def _split_last_turn(data: dict[str, Any], name: str, location: str) -> tuple[str, str]:
    """(the dialogue before the last assistant turn, the text of that turn)."""
    dialogue = data.get(name)
    if not isinstance(dialogue, str) or _LAST_TURN not in dialogue:
        raise StoreError(
            f"{location}: `{name}` must be a dialogue that ends with an Assistant: turn"
        )
    before, _, reply = dialogue.rpartition(_LAST_TURN)
    return before, reply.strip()


def _votes(data: dict[str, Any], location: str) -> Iterator[tuple[str, float]]:
    """(principle, P(first is better)) for every vote with a verdict."""
    votes = data.get("votes")
    if not isinstance(votes, list) or not all(
        isinstance(vote, dict) and isinstance(vote.get("principle"), str) for vote in votes
    ):
        raise StoreError(
            f"{location}: a row needs `votes`, as `cai label` writes them, to be grouped by"
            " principle"
        )
    for vote in votes:
        p = _probability(vote.get("p_first"), location)
        if p is not None:
            yield vote["principle"], p


def _group(data: dict[str, Any], by: str, location: str) -> str:
    value = data.get(by)
    if not isinstance(value, str | int):
        raise StoreError(
            f"{location}: a row needs `{by}` (text or a number), by which rows are grouped"
        )
    return str(value)


def _probability(value: Any, location: str, key: str = "p_first") -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise StoreError(f"{location}: `{key}` must be a probability or null, found {value!r}")
    return float(value)

"""Verdicts on pairs of replies, from files of `cai label` and of preference data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cai.data.filters import IN_EVALUATION, HygieneConfig, PromptFilters
from cai.data.readers import located_rows, prompt_rows
from cai.data.reply_pairs import DEFAULT_OPTIONS, PAIR_CELLS, PairOptions, probability, reply_pair
from cai.errors import StoreError
from cai.records import Message, Prompt, TrainingChat

BY_PRINCIPLE = "principle"
DIFFERENT_PROMPTS = "`chosen` and `rejected` are about different conversations"
EQUAL_REPLIES = "the two replies are equal"
NO_VERDICT = "no verdict (`p_first`, or the field with the better reply, is null)"


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


def labelled_pairs(
    path: Path,
    by: str | None = None,
    passed_over: Counter[str] | None = None,
    options: PairOptions = DEFAULT_OPTIONS,
) -> Iterator[LabelledPair]:
    """Verdicts of a file, in order; `cai.data.reply_pairs` lists the shapes of its rows.

    `p_chosen`, as `cai export` writes it, is 1 by default. Three kinds of rows are skipped: those
    without a verdict, the few of hh-rlhf whose two dialogues differ before the last turn, and
    those whose replies are equal.

    Args:
        by: field whose value is the group; `principle`: one verdict per vote of a row, grouped by
            its principle.
        passed_over: reason -> skipped rows; counted up in place.
        options: names of fields in the rows of others.

    Raises:
        StoreError: a row is wrong, or lacks the field `by`; the message begins with file:line.
    """
    skipped = Counter[str]() if passed_over is None else passed_over
    for number, (location, data) in enumerate(located_rows(path, PAIR_CELLS), 1):
        pair = reply_pair(data, location, options)
        if pair is None:
            skipped[DIFFERENT_PROMPTS] += 1
            continue
        if pair.first == pair.second:
            skipped[EQUAL_REPLIES] += 1
            continue
        prompt, first, second, p_first = pair
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
        p = probability(vote.get("p_first"), location)
        if p is not None:
            yield vote["principle"], p


def _group(data: dict[str, Any], by: str, location: str) -> str:
    value = data.get(by)
    if not isinstance(value, str | int):
        raise StoreError(
            f"{location}: a row needs `{by}` (text or a number), by which rows are grouped"
        )
    return str(value)

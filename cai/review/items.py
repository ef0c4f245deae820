"""Items that people judge: pairs of replies, and single replies, in the order of doubt.

An item is named by its texts alone. Where a reply comes from, and what a machine says of it, is
kept beside the texts, for the order and for the report; the page never gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Literal

from cai.data.readers import located_rows
from cai.data.reply_pairs import PAIR_CELLS, PairOptions, reply_pair
from cai.errors import StoreError
from cai.records import Chat, EvalReply, Kind, Preference, Vote
from cai.store import digest, parse_row, read_rows

Task = Literal["pair", "reply"]
JUDGES_DISAGREE = 0.5
"""Doubt about a reply that the rubric and the preference model see differently."""


@dataclass(frozen=True)
class Item:
    """Something to judge: a chat with two replies, or with one."""

    task: Task
    chat: Chat
    replies: tuple[str, ...]
    kind: Kind | None = None
    subjects: tuple[str, ...] = ()
    """Where they are known: the models that gave the first and the second reply, or all that gave
    the only one."""
    p_first: float | None = None
    """A machine's label of a pair."""
    votes: tuple[Vote, ...] = ()
    graded: EvalReply | None = None
    """A machine's grade of a reply."""

    @cached_property
    def id(self) -> str:
        turns = [f"{message.role}:{message.content}" for message in self.chat]
        return digest(self.task, self.kind or "", *turns, *self.replies)

    def subjects_of(self, index: int) -> tuple[str, ...]:
        """The models that gave a reply; `all` where none is known."""
        known = self.subjects[index : index + 1] if self.task == "pair" else self.subjects
        return known or ("all",)

    @property
    def doubt(self) -> float | None:
        """From 0, where the machine is sure, to 1; None where it says nothing."""
        return _pair_doubt(self) if self.task == "pair" else _reply_doubt(self.graded)


def _pair_doubt(item: Item) -> float | None:
    """The label's distance from certainty, or the principles' from unanimity if that is more."""
    if item.p_first is None:
        return None
    verdicts = [vote.p_first > 0.5 for vote in item.votes if vote.p_first is not None]
    share = sum(verdicts) / len(verdicts) if verdicts else 0.0
    return max(1 - abs(2 * item.p_first - 1), 2 * min(share, 1 - share))


def _reply_doubt(reply: EvalReply | None) -> float | None:
    """Of the least certain proposition; at least one half where two judges disagree."""
    if reply is None or reply.grade.correct is None:
        return None
    doubts = [1 - abs(2 * p - 1) for p in reply.grade.propositions.values()]
    disagree = reply.reward is not None and (reply.reward > 0) != reply.grade.correct
    return max([*doubts, JUDGES_DISAGREE if disagree else 0.0])


# ---- reading ----


def read_pairs(pairs: Path, preferences: Path | None) -> list[Item]:
    """The pairs in a file, with the labels of a second file, or else of their own rows.

    Rows with the same texts are one item; a pair of equal replies is none.

    Raises:
        StoreError: a row is not a pair, or not a label, as file:line; no label is of one of the
            pairs.
    """
    labels = {row.source: row for row in read_rows(preferences, Preference)} if preferences else {}
    items: dict[str, Item] = {}
    unused = set(labels)
    for location, data in located_rows(pairs, PAIR_CELLS):
        unused.discard(str(data.get("id")))
        if data.get("unscored") is not None and not data.get("first"):
            continue  # a model call without an answer: there are no replies
        pair = reply_pair(data, location, PairOptions(reads_verdict=preferences is None))
        if pair is None or pair.first.strip() == pair.second.strip():
            continue
        label = labels.get(str(data.get("id"))) if preferences else _label(data, location)
        item = Item(
            task="pair",
            chat=pair.prompt.chat,
            replies=(pair.first, pair.second),
            kind=pair.prompt.kind,
            p_first=pair.p_first if label is None else label.p_first,
            votes=() if label is None else label.votes,
        )
        items.setdefault(item.id, item)
    if labels and len(unused) == len(labels):
        raise StoreError(
            f"{preferences}: no label of a pair in {pairs}: give the pairs' own labels"
        )
    return list(items.values())


def _label(data: Mapping[str, object], location: str) -> Preference | None:
    """The label in a row of `cai label`; None where there is none."""
    if data.get("p_first") is None:
        return None
    fields = {"p_first": data["p_first"], "votes": data.get("votes") or (), "source": location}
    return parse_row(fields, Preference, location)


def reply_items(replies: Iterable[EvalReply]) -> list[Item]:
    """Each reply once, however many models gave it; unanswered ones are left out."""
    items: dict[str, Item] = {}
    for reply in replies:
        if not reply.response.strip():
            continue
        item = Item(
            task="reply",
            chat=reply.chat,
            replies=(reply.response,),
            kind=reply.kind,
            subjects=(reply.subject,),
            graded=reply,
        )
        same = items.get(item.id, item)
        subjects = tuple(dict.fromkeys((*same.subjects, reply.subject)))
        items[item.id] = replace(same, subjects=subjects)
    return list(items.values())


def subject_pairs(replies: Sequence[EvalReply], first: str, second: str) -> list[Item]:
    """Pairs of two subjects' replies to the same prompt; those that are equal are left out.

    The rubric's label of a pair: the reply with the higher score; None where a score is unknown, or
    both are equal.
    """
    by_subject: dict[str, dict[tuple[str, int], EvalReply]] = {first: {}, second: {}}
    for reply in replies:
        if reply.subject in by_subject and reply.response.strip():
            by_subject[reply.subject][reply.source, reply.draw] = reply
    items: dict[str, Item] = {}
    for key, one in by_subject[first].items():
        other = by_subject[second].get(key)
        if other is None or one.response.strip() == other.response.strip():
            continue
        item = Item(
            task="pair",
            chat=one.chat,
            replies=(one.response, other.response),
            kind=one.kind,
            subjects=(first, second),
            p_first=_better_grade(one, other),
        )
        items.setdefault(item.id, item)
    return list(items.values())


def all_subject_pairs(replies: Sequence[EvalReply]) -> list[Item]:
    """`subject_pairs` of every two subjects, in both orders, for looking judgements up."""
    subjects = list(dict.fromkeys(reply.subject for reply in replies))
    return [
        item
        for one, other in combinations(subjects, 2)
        for first, second in ((one, other), (other, one))
        for item in subject_pairs(replies, first, second)
    ]


def _better_grade(one: EvalReply, other: EvalReply) -> float | None:
    scores = (one.grade.score, other.grade.score)
    if scores[0] is None or scores[1] is None or scores[0] == scores[1]:
        return None
    return float(scores[0] > scores[1])


# ---- the order ----


def doubtful_first(items: Iterable[Item]) -> list[Item]:
    """Pairs before replies; of each, those first of which the machine is least sure.

    Items that no machine judged come last. Equal ones are in an order that follows from their texts
    and is otherwise at random.
    """

    def key(item: Item) -> tuple[bool, bool, float, str]:
        doubt = item.doubt
        return item.task == "reply", doubt is None, -(doubt or 0.0), item.id

    return sorted(items, key=key)


def at_random(items: Iterable[Item]) -> list[Item]:
    """Pairs before replies; each at random, by a draw that follows from the texts."""
    return sorted(items, key=lambda item: (item.task == "reply", item.id))

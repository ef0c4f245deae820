"""Rows of supervised fine-tuning: which replies are learnt, and how often.

Every draw follows from the seed and the row's id, whatever the order of the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.modeling.thoughts import split_thoughts
from cai.records import Chat, Kind, Revision
from cai.seeds import rng
from cai.train.ppo.prompt_sampler import group_of
from cai.train.sft import Example, SFTConfig


@dataclass(frozen=True)
class SFTRow:
    """A reply to learn."""

    id: str
    """Names the row in random draws."""
    chat: Chat
    reply: str
    finished: bool = True
    """Whether its author ended it; False: it was cut, and is without its unfinished sentence."""
    kind: Kind | None = None
    category: str | None = None


def revision_rows(
    revision: Revision, config: SFTConfig, kind: Kind | None = None, category: str | None = None
) -> list[SFTRow]:
    """The rows of one revision: its final reply, and with `rounds: all` the revisions of its other
    rounds that the filters let through.
    """
    if revision.final is None:
        return []

    def row(name: object, reply: str, finished: bool | None) -> SFTRow:
        return SFTRow(
            f"{revision.id}/{name}", revision.chat, reply, finished is not False, kind, category
        )

    chosen = revision.chosen_round
    rows = []
    if config.rounds == "all":
        rows = [
            row(number, entry.revision, entry.finished)
            for number, entry in enumerate(revision.rounds)
            if entry.passes and number != chosen
        ]
    return [*rows, row(chosen, revision.final, revision.final_finished)]


def select_rows(
    rows: Sequence[SFTRow], config: SFTConfig, seed: int
) -> tuple[list[SFTRow], dict[str, int]]:
    """(rows to train on, some of them several times; what was left out or added, by reason)."""
    counts = {}
    replying = [row for row in rows if not _is_thought_alone(row.reply)]
    if thoughts := len(rows) - len(replying):
        counts["thought alone"] = thoughts
    rows = replying
    uncut = [row for row in rows if row.finished]
    if cut := len(rows) - len(uncut):
        counts["cut"] = cut
    kept = uncut if config.cut_replies == "drop" else list(rows)
    if config.max_repeats is not None:
        distinct = _limit_repeats(kept, config.max_repeats, seed)
        if repeats := len(kept) - len(distinct):
            counts["same reply"] = repeats
        kept = distinct
    if config.weights:
        counts["before weights"] = len(kept)
        kept = _repeat_by_weight(kept, config.weights, seed)
    return kept, counts


def examples(rows: Sequence[SFTRow], config: SFTConfig) -> list[Example]:
    """The rows as `sft` takes them."""
    return [
        Example(row.chat, row.reply, row.finished or config.cut_replies != "open") for row in rows
    ]


def _is_thought_alone(reply: str) -> bool:
    return bool(reply.strip()) and not split_thoughts(reply).text


def _limit_repeats(rows: Sequence[SFTRow], limit: int, seed: int) -> list[SFTRow]:
    """At most `limit` rows of each reply, drawn at random. White space makes no difference."""
    by_reply: dict[str, list[SFTRow]] = defaultdict(list)
    for row in rows:
        by_reply[" ".join(row.reply.split())].append(row)
    kept = {row.id for group in by_reply.values() for row in _drawn(group, limit, seed, "repeats")}
    return [row for row in rows if row.id in kept]


def _repeat_by_weight(
    rows: Sequence[SFTRow], weights: Mapping[str, float], seed: int
) -> list[SFTRow]:
    """Each row as often as its group's weight w says, in expectation.

    A row occurs floor(w) times. Of a group of n rows, floor(n * (w - floor(w))) occur once more,
    and another one with the probability that is then missing.
    """
    groups: dict[str, list[SFTRow]] = defaultdict(list)
    for row in rows:
        name = group_of(row, weights)
        if name in weights:
            groups[str(name)].append(row)
    copies = {row.id: 1 for row in rows}
    for name, group in groups.items():
        complete = int(weights[name])
        expected = len(group) * (weights[name] - complete)
        more = int(expected)
        more += rng(seed, "sft", "weights", name).random() < expected - more
        once_more = {row.id for row in _drawn(group, more, seed, "weights")}
        copies |= {row.id: complete + (row.id in once_more) for row in group}
    return [row for row in rows for _ in range(copies[row.id])]


def _drawn(rows: Sequence[SFTRow], count: int, seed: int, purpose: str) -> list[SFTRow]:
    return sorted(rows, key=lambda row: rng(seed, "sft", purpose, row.id).random())[:count]

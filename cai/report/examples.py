"""Which rows the report shows: the first few of each kind by id. An id is a hash of content, so nobody picked them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from cai.evals.refusal import subjects_of
from cai.records import Chat, EvalReply, Kind, Revision, Row

RowT = TypeVar("RowT", bound=Row)
Of = str
"""A kind of prompt, or "unknown kind"."""

UNKNOWN_KIND = "unknown kind"
ORDER: tuple[Of, ...] = (*get_args(Kind), UNKNOWN_KIND)


@dataclass(frozen=True)
class RevisionExample:
    kind: Of
    row: Revision


@dataclass(frozen=True)
class ReplyExample:
    kind: Of
    category: str | None
    chat: Chat
    replies: list[EvalReply]
    """The lowest draw of every subject; base, sft, policy first."""


def _first(
    rows: Iterable[RowT], key: Callable[[RowT], str], kind_of: Callable[[RowT], Of], k: int
) -> dict[Of, dict[str, list[RowT]]]:
    """Per kind, all rows of the k smallest keys; holds no more than that at any time, whatever the number of rows."""
    kept: dict[Of, dict[str, list[RowT]]] = {}
    for row in rows:
        group = kept.setdefault(kind_of(row), {})
        group.setdefault(key(row), []).append(row)
        if len(group) > k:
            del group[max(group)]
    return {
        kind: {name: kept[kind][name] for name in sorted(kept[kind])}
        for kind in ORDER
        if kind in kept
    }


def first_revisions(
    rows: Iterable[Revision], kinds: Mapping[str, Kind | None], k: int
) -> list[RevisionExample]:
    """The first `k` by id of each kind; `kinds` maps prompt id to kind. Rows that the gate dropped take part."""

    def kind_of(row: Revision) -> Of:
        return kinds.get(row.source) or UNKNOWN_KIND

    found = _first(rows, lambda row: row.id, kind_of, k)
    return [
        RevisionExample(kind, group[0])
        for kind, groups in found.items()
        for group in groups.values()
    ]


def first_replies(rows: Iterable[EvalReply], k: int) -> list[ReplyExample]:
    """Every subject's reply to the first `k` prompts by id of each kind."""
    found = _first(rows, lambda row: row.source, lambda row: row.kind or UNKNOWN_KIND, k)
    return [
        _side_by_side(kind, group) for kind, groups in found.items() for group in groups.values()
    ]


def _side_by_side(kind: Of, rows: Sequence[EvalReply]) -> ReplyExample:
    lowest: dict[str, EvalReply] = {}
    for row in rows:
        if row.subject not in lowest or row.draw < lowest[row.subject].draw:
            lowest[row.subject] = row
    return ReplyExample(
        kind, rows[0].category, rows[0].chat, [lowest[name] for name in subjects_of(lowest)]
    )

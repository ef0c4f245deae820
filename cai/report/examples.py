"""Selection of the rows that the report shows: the first few of each kind by id.

An id is a hash of content, so the selection is arbitrary, not hand-picked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from cai.artifacts import subjects_of
from cai.records import Chat, EvalReply, Kind, Revision, Row

RowT = TypeVar("RowT", bound=Row)
KindName = str
"""A kind of prompt, or "unknown kind"."""

UNKNOWN_KIND = "unknown kind"
ORDER: tuple[KindName, ...] = (*get_args(Kind), UNKNOWN_KIND)


@dataclass(frozen=True)
class RevisionExample:
    kind: KindName
    row: Revision


@dataclass(frozen=True)
class ReplyExample:
    kind: KindName
    category: str | None
    chat: Chat
    replies: list[EvalReply]
    """The lowest draw of every subject; base, sft, policy first."""


def _first_groups(
    rows: Iterable[RowT],
    key: Callable[[RowT], str],
    kind_of: Callable[[RowT], KindName],
    count: int,
) -> dict[KindName, list[list[RowT]]]:
    """Per kind, the rows of each of the `count` smallest keys, by key.

    No more than these are in memory at any time, so that `rows` may be a long stream.
    """
    groups: dict[KindName, dict[str, list[RowT]]] = {}
    for row in rows:
        of_kind = groups.setdefault(kind_of(row), {})
        of_kind.setdefault(key(row), []).append(row)
        if len(of_kind) > count:
            del of_kind[max(of_kind)]
    return {
        kind: [groups[kind][name] for name in sorted(groups[kind])]
        for kind in ORDER
        if kind in groups
    }


def first_revisions(
    rows: Iterable[Revision], kinds: Mapping[str, Kind | None], count: int
) -> list[RevisionExample]:
    """The first `count` revisions of each kind by id, dropped ones included.

    Args:
        kinds: prompt id -> kind.
    """

    def kind_of(row: Revision) -> KindName:
        return kinds.get(row.source) or UNKNOWN_KIND

    groups = _first_groups(rows, lambda row: row.id, kind_of, count)
    return [RevisionExample(kind, group[0]) for kind in groups for group in groups[kind]]


def first_replies(rows: Iterable[EvalReply], count: int) -> list[ReplyExample]:
    """Every subject's reply to the first `count` prompts of each kind by id."""

    def kind_of(row: EvalReply) -> KindName:
        return row.kind or UNKNOWN_KIND

    groups = _first_groups(rows, lambda row: row.source, kind_of, count)
    return [_side_by_side(kind, group) for kind in groups for group in groups[kind]]


def _side_by_side(kind: KindName, rows: Sequence[EvalReply]) -> ReplyExample:
    lowest: dict[str, EvalReply] = {}
    for row in rows:
        if row.subject not in lowest or row.draw < lowest[row.subject].draw:
            lowest[row.subject] = row
    replies = [lowest[name] for name in subjects_of(lowest)]
    return ReplyExample(kind, rows[0].category, rows[0].chat, replies)

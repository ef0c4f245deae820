"""Rows of a run that an edit of its constitution makes stale."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from cai.artifacts import PAIRS, PREFERENCES, PROMPTS, REVISIONS
from cai.constitution import Change
from cai.errors import StoreError
from cai.generate.revise import ReviseConfig
from cai.generate.row_reuse import is_preference_current, is_revision_current, only_principles
from cai.pipeline.context import RunContext, load_rows
from cai.records import Kind, Pair, Preference, Prompt, Revision
from cai.store import RowT

LABEL_PARTS = ("principle:", "examples:compare")
"""Parts of the constitution that decide a run's labels."""


def source_of(row: Revision | Preference, rows: Mapping[str, RowT], file: Path, name: str) -> RowT:
    """The row that `row` was made from.

    Raises:
        StoreError: there is none: `file` is of another run, or was edited.
    """
    if row.source not in rows:
        raise StoreError(
            f"{file}: row {row.id}: its source {row.source!r} is no row of {name}: "
            "the two files are not of one run"
        )
    return rows[row.source]


def revise_parts(config: ReviseConfig) -> tuple[str, ...]:
    """Parts of the constitution that decide a run's revisions."""
    parts = ("principle:", "examples:critique", "rubric")
    return (*parts, "examples:compare") if config.matrix else parts


def revision_is_current(ctx: RunContext) -> Callable[[Revision, Collection[str]], bool]:
    """(row, ids of edited principles) -> whether the row is what would be made now."""
    prompts: dict[str, Prompt] = {p.id: p for p in load_rows(ctx.path(PROMPTS), Prompt)}
    config = ctx.run.revise

    def is_current(row: Revision, edited: Collection[str]) -> bool:
        prompt = source_of(row, prompts, ctx.path(REVISIONS), PROMPTS)
        return is_revision_current(row, prompt, ctx.constitution, config, ctx.seed, edited)

    return is_current


def preference_is_current(ctx: RunContext) -> Callable[[Preference, Collection[str]], bool]:
    """The same for labels."""
    pairs: dict[str, Pair] = {p.id: p for p in load_rows(ctx.path(PAIRS), Pair)}
    kinds, config = prompt_kinds(ctx), ctx.run.label

    def is_current(row: Preference, edited: Collection[str]) -> bool:
        pair = source_of(row, pairs, ctx.path(PREFERENCES), PAIRS)
        kind = kinds.get(pair.source, (None, None))
        return is_preference_current(row, pair, kind, ctx.constitution, config, ctx.seed, edited)

    return is_current


def prompt_kinds(ctx: RunContext) -> dict[str, tuple[Kind | None, str | None]]:
    """Prompt id -> kind and category."""
    return {p.id: (p.kind, p.category) for p in load_rows(ctx.path(PROMPTS), Prompt)}


def stale_rows(ctx: RunContext, changes: Sequence[Change]) -> dict[str, tuple[list[str], int]]:
    """For each file there is: ids of its stale rows, and its number of rows.

    An edited rubric, or edited examples, make every row of a stage stale that reads them.

    Args:
        changes: by which `ctx.constitution` differs from the one that the rows were made with.
    """
    keys = [change.key for change in changes]
    stages = (
        (REVISIONS, Revision, revision_is_current, revise_parts(ctx.run.revise)),
        (PREFERENCES, Preference, preference_is_current, LABEL_PARTS),
    )
    stale = {}
    for name, kind, current_in, parts in stages:
        if not ctx.path(name).exists():
            continue
        is_current = current_in(ctx)
        edited = only_principles([key for key in keys if key.startswith(parts)])
        rows = load_rows(ctx.path(name), kind)
        ids = [row.id for row in rows if edited is None or not is_current(row, edited)]
        stale[name] = (ids, len(rows))
    return stale

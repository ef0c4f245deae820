"""What an edit of the constitution means for the rows that a run already has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from cai.artifacts import PAIRS, PREFERENCES, PROMPTS, REVISIONS
from cai.constitution import Change
from cai.generate.revise import ReviseConfig
from cai.generate.row_reuse import only_principles, preference_stands, revision_stands
from cai.pipeline.context import RunContext, read_rows
from cai.records import Kind, Pair, Preference, Prompt, Revision

LABEL_READS = ("principle:", "examples:compare")
"""Parts of the constitution that decide the rows of a stage."""


def revise_reads(config: ReviseConfig) -> tuple[str, ...]:
    return ("principle:", "examples:critique", "rubric", *["examples:compare"] * config.matrix)


def revision_stands_in(ctx: RunContext) -> Callable[[Revision, Collection[str]], bool]:
    """(row, ids of edited principles) -> whether the row is what would be made now."""
    prompts: dict[str, Prompt] = {p.id: p for p in read_rows(ctx.path(PROMPTS), Prompt)}
    config = ctx.run.revise
    return lambda row, edited: revision_stands(row, prompts[row.source], ctx.constitution, config, ctx.seed, edited)


def preference_stands_in(ctx: RunContext) -> Callable[[Preference, Collection[str]], bool]:
    """The same for labels."""
    pairs: dict[str, Pair] = {p.id: p for p in read_rows(ctx.path(PAIRS), Pair)}
    about, config = abouts_in(ctx), ctx.run.label

    def stands(row: Preference, edited: Collection[str]) -> bool:
        pair = pairs[row.source]
        return preference_stands(row, pair, about.get(pair.source, (None, None)), ctx.constitution, config, ctx.seed, edited)

    return stands


def abouts_in(ctx: RunContext) -> dict[str, tuple[Kind | None, str | None]]:
    """Prompt id -> kind and category."""
    return {p.id: (p.kind, p.category) for p in read_rows(ctx.path(PROMPTS), Prompt)}


def stale_rows(ctx: RunContext, changes: Sequence[Change]) -> dict[str, tuple[list[str], int]]:
    """For each file there is: ids of the rows that `ctx.constitution`, which differs by `changes`, makes stale; rows in all.

    An edited rubric or edited examples decide about every row of a stage that reads them.
    """
    keys = [change.key for change in changes]
    found = {}
    for name, kind, stander, reads in (
        (REVISIONS, Revision, revision_stands_in, revise_reads(ctx.run.revise)),
        (PREFERENCES, Preference, preference_stands_in, LABEL_READS),
    ):
        if not ctx.path(name).exists():
            continue
        stands = stander(ctx)
        edited = only_principles([key for key in keys if key.startswith(reads)])
        rows = read_rows(ctx.path(name), kind)
        found[name] = ([row.id for row in rows if edited is None or not stands(row, edited)], len(rows))
    return found

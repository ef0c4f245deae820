"""What an edit of the constitution means for the rows that a run already has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from cai.constitution import Change
from cai.generate.revise import ReviseConfig
from cai.generate.row_reuse import only_principles, preference_stands, revision_stands
from cai.pipeline.context import PAIRS, PREFERENCES, PROMPTS, REVISIONS, Workshop, rows_of
from cai.records import Kind, Pair, Preference, Prompt, Revision

LABEL_READS = ("principle:", "examples:compare")
"""Parts of the constitution that decide the rows of a stage."""


def revise_reads(config: ReviseConfig) -> tuple[str, ...]:
    return ("principle:", "examples:critique", "rubric", *["examples:compare"] * config.matrix)


def revision_stands_in(shop: Workshop) -> Callable[[Revision, Collection[str]], bool]:
    """(row, ids of edited principles) -> whether the row is what would be made now."""
    prompts: dict[str, Prompt] = {p.id: p for p in rows_of(shop.path(PROMPTS), Prompt)}
    config = shop.loaded.run.revise
    return lambda row, edited: revision_stands(row, prompts[row.source], shop.constitution, config, shop.seed, edited)


def preference_stands_in(shop: Workshop) -> Callable[[Preference, Collection[str]], bool]:
    """The same for labels."""
    pairs: dict[str, Pair] = {p.id: p for p in rows_of(shop.path(PAIRS), Pair)}
    about, config = abouts_in(shop), shop.loaded.run.label

    def stands(row: Preference, edited: Collection[str]) -> bool:
        pair = pairs[row.source]
        return preference_stands(row, pair, about.get(pair.source, (None, None)), shop.constitution, config, shop.seed, edited)

    return stands


def abouts_in(shop: Workshop) -> dict[str, tuple[Kind | None, str | None]]:
    """Prompt id -> kind and category."""
    return {p.id: (p.kind, p.category) for p in rows_of(shop.path(PROMPTS), Prompt)}


def stale_rows(shop: Workshop, changes: Sequence[Change]) -> dict[str, tuple[list[str], int]]:
    """For each file there is: ids of the rows that `shop.constitution`, which differs by `changes`, makes stale; rows in all.

    An edited rubric or edited examples decide about every row of a stage that reads them.
    """
    keys = [change.key for change in changes]
    found = {}
    for name, kind, stander, reads in (
        (REVISIONS, Revision, revision_stands_in, revise_reads(shop.loaded.run.revise)),
        (PREFERENCES, Preference, preference_stands_in, LABEL_READS),
    ):
        if not shop.path(name).exists():
            continue
        stands = stander(shop)
        edited = only_principles([key for key in keys if key.startswith(reads)])
        rows = rows_of(shop.path(name), kind)
        found[name] = ([row.id for row in rows if edited is None or not stands(row, edited)], len(rows))
    return found

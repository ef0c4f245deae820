"""Reuse of rows after an edit of the constitution: those that draw the same, unedited principles.

`set_aside` moves such rows to `NAME.kept.jsonl`, from where the stage takes them without a model
call, and the others to `NAME.stale.jsonl`, so that none is lost. After a kill at any moment, the
same call resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from cai import store
from cai.async_map import RowT
from cai.constitution.schema import Constitution
from cai.generate.label import principles_for
from cai.generate.label_config import LabelConfig
from cai.generate.revise import ReviseConfig, draw_principle, is_revised, revision_principles
from cai.records import Kind, Pair, Preference, Prompt, Revision

PRINCIPLE = "principle:"
"""Prefix of a principle's key in a manifest."""


def only_principles(differs: Collection[str]) -> set[str] | None:
    """Ids of the principles that differ between two manifests.

    Args:
        differs: the manifests' keys with different values.

    Returns:
        None if anything but principles differs.
    """
    if any(key != "constitution" and not key.startswith(PRINCIPLE) for key in differs):
        return None
    return {key.removeprefix(PRINCIPLE) for key in differs} - {"constitution"}


def is_revision_current(
    row: Revision,
    prompt: Prompt,
    constitution: Constitution,
    config: ReviseConfig,
    seed: int,
    changed: Collection[str],
) -> bool:
    """Whether a fresh run with `constitution` would give the same row.

    Args:
        changed: ids of the principles that were added, removed or edited.
    """
    principles = revision_principles(constitution, config)
    for number, entry in enumerate(row.rounds):
        drawn = draw_principle(principles, prompt, seed, "revise", number)
        if drawn is None or drawn.id != entry.principle or drawn.id in changed:
            return False
    limit = config.rounds if is_revised(prompt, config) else 0
    # The gate ended the rounds by letting the last revision through.
    stopped = row.chosen_round is not None and row.chosen_round == len(row.rounds) - 1
    if len(row.rounds) == limit or stopped:
        return True
    return draw_principle(principles, prompt, seed, "revise", len(row.rounds)) is None


def is_preference_current(
    row: Preference,
    pair: Pair,
    about: tuple[Kind | None, str | None],
    constitution: Constitution,
    config: LabelConfig,
    seed: int,
    changed: Collection[str],
) -> bool:
    """Whether a fresh run with `constitution` would give the same label.

    Args:
        about: kind and category of the pair's prompt.
        changed: ids of the principles that were added, removed or edited.
    """
    same_replies = pair.first.strip() == pair.second.strip()
    if not row.votes and (pair.unscored is not None or same_replies):
        return True
    kind, category = about
    principles = principles_for(constitution, config, kind, seed, pair, category)
    drawn = [p.id if p else config.ask for p in principles]
    voted = [vote.principle for vote in row.votes]
    return drawn == voted and set(drawn).isdisjoint(changed)


def reusable_rows_path(artefact: Path) -> Path:
    """The file of the rows to reuse."""
    return artefact.with_suffix(".kept.jsonl")


def set_aside(
    artefact: Path, kind: type[RowT], stands: Callable[[RowT], bool], keep_stale: bool = True
) -> tuple[int, int]:
    """Move the rows of `artefact` aside, so that the stage can be run again.

    Args:
        stands: whether a row can be reused.
        keep_stale: False drops the others: rows without content.

    Returns:
        (rows kept, rows stale).
    """
    kept = reusable_rows_path(artefact)
    store.truncate_torn_line(artefact)
    rows: dict[str, RowT] = {}
    for path in (kept, artefact):
        if path.exists():
            rows |= {row.id: row for row in store.read_rows(path, kind)}
    reusable = {name: row for name, row in rows.items() if stands(row)}
    stale = [row for name, row in rows.items() if name not in reusable]
    if stale and keep_stale:
        store.append_rows(artefact.with_suffix(".stale.jsonl"), stale)
    store.atomic_write(kept, "".join(row.line() + "\n" for row in reusable.values()))
    artefact.unlink(missing_ok=True)
    return len(reusable), len(stale)

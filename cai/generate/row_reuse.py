"""What an edited constitution leaves as it is: rows that would draw the same principles again, none of them changed.

`set_aside` moves such rows to `NAME.kept.jsonl`, from where the stage takes them without asking a model, and the others to
`NAME.stale.jsonl`, where nothing is lost. A kill at any moment leaves a state from which the same call goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from cai import store
from cai.async_map import RowT
from cai.constitution.schema import Constitution
from cai.generate.label import LabelConfig, asked_by
from cai.generate.revise import ReviseConfig, draw_principle, revised, revising
from cai.records import Kind, Pair, Preference, Prompt, Revision

PRINCIPLE = "principle:"


def only_principles(differs: Collection[str]) -> set[str] | None:
    """Ids of the principles that differ, from the keys of two manifests that do; None when something else does too."""
    if any(key != "constitution" and not key.startswith(PRINCIPLE) for key in differs):
        return None
    return {key.removeprefix(PRINCIPLE) for key in differs} - {"constitution"}


def revision_stands(
    row: Revision, prompt: Prompt, constitution: Constitution, config: ReviseConfig, seed: int, changed: Collection[str]
) -> bool:
    """Whether `row` is what `constitution` would still give: `changed` names principles that are new, gone or edited in it."""
    principles = revising(constitution, config)
    for number, made in enumerate(row.rounds):
        drawn = draw_principle(principles, prompt, seed, "revise", number)
        if drawn is None or drawn.id != made.principle or drawn.id in changed:
            return False
    wanted = config.rounds if revised(prompt, config) else 0
    stopped = row.chosen_round is not None and row.chosen_round == len(row.rounds) - 1  # by the gate, which let the last pass
    if len(row.rounds) == wanted or stopped:
        return True
    return draw_principle(principles, prompt, seed, "revise", len(row.rounds)) is None


def preference_stands(
    row: Preference,
    pair: Pair,
    about: tuple[Kind | None, str | None],
    constitution: Constitution,
    config: LabelConfig,
    seed: int,
    changed: Collection[str],
) -> bool:
    """As `revision_stands`, for a label. `about`: kind and category of its prompt."""
    if not row.votes and (pair.unscored is not None or pair.first.strip() == pair.second.strip()):
        return True
    drawn = [p.id if p else config.ask for p in asked_by(constitution, config, about[0], seed, pair, about[1])]
    return drawn == [vote.principle for vote in row.votes] and not set(drawn) & set(changed)


def kept_path(artefact: Path) -> Path:
    return artefact.with_suffix(".kept.jsonl")


def set_aside(artefact: Path, kind: type[RowT], stands: Callable[[RowT], bool]) -> tuple[int, int]:
    """Empty `artefact` for another making of it; returns (rows kept, rows stale)."""
    kept, stale = kept_path(artefact), artefact.with_suffix(".stale.jsonl")
    store.truncate_torn_line(artefact)
    rows = {row.id: row for path in (kept, artefact) if path.exists() for row in store.read(path, kind)}
    standing = {name: row for name, row in rows.items() if stands(row)}
    gone = [row for name, row in rows.items() if name not in standing]
    if gone:
        store.append(stale, gone)
    store.atomic_write(kept, "".join(row.line() + "\n" for row in standing.values()))
    artefact.unlink(missing_ok=True)
    return len(standing), len(gone)

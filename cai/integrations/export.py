"""Export of a run's data in the columns that other trainers read.

Tables are Parquet files for the Hub or folders for `datasets.load_from_disk`, with a dataset card.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from cai import store
from cai.artifacts import PAIRS, PREFERENCES, PROMPTS, REVISIONS
from cai.data.writers import Columns, write_parquet
from cai.errors import StoreError, blame
from cai.records import Chat, Pair, Preference, Prompt, Revision, message_dicts
from cai.report.cards import any_harmful, dataset_card, left_out_rows, unusable_reason
from cai.report.data_details import preference_details, prompt_details, revision_details

SFT: Columns = {"prompt": "chat", "completion": "chat", "id": "text"}
PREFERENCE: Columns = {
    "prompt": "chat",
    "chosen": "chat",
    "rejected": "chat",
    "p_chosen": "number",
    "margin": "number",
    "id": "text",
}
PROMPT: Columns = {"prompt": "chat", "kind": "text", "id": "text"}
MIN_PROBABILITY = 1e-6
"""Margins are clipped to its log-odds: a label of exactly 1 has infinite ones."""
Format = Literal["parquet", "datasets"]
TableRow = dict[str, Any]
Tables = dict[str, tuple[Iterator[TableRow], Columns]]
"""Name of a table -> its rows and columns."""


def prompt_rows(prompts: Path) -> Iterator[TableRow]:
    """The training prompts with their kind, without replies (TRL's prompt-only columns)."""
    for row in store.read_rows(prompts, Prompt):
        yield {"prompt": _turns(row.chat), "kind": row.kind, "id": row.id}


def sft_rows(revisions: Path) -> Iterator[TableRow]:
    """The revisions that passed the gate, as TRL's conversational prompt and completion."""
    for row in store.read_rows(revisions, Revision):
        if row.final is not None:
            yield {"prompt": _turns(row.chat), "completion": _reply(row.final), "id": row.id}


def preference_rows(pairs: Path, preferences: Path) -> Iterator[TableRow]:
    """Soft labels in TRL's columns chosen and rejected.

    `p_chosen` is P(chosen is better), `margin` its log-odds in nats. Ties and pairs without a label
    are left out. Both files are in the order of the pairs, as a run writes them, so that one pair
    is in memory at a time.

    Raises:
        StoreError: a label is about a pair that is not in the other file.
    """
    pair_rows = store.read_rows(pairs, Pair)
    for label in store.read_rows(preferences, Preference):
        pair = next((row for row in pair_rows if row.id == label.source), None)
        if pair is None:
            raise StoreError(
                f"{preferences}: a label for pair {label.source}, "
                f"which is not in {pairs} or comes earlier there"
            )
        if unusable_reason(label) or label.p_first is None:
            continue
        yield _preference_row(pair, label, label.p_first)


def _preference_row(pair: Pair, label: Preference, p_first: float) -> TableRow:
    if p_first > 0.5:
        chosen, rejected, p_chosen = pair.first, pair.second, p_first
    else:
        chosen, rejected, p_chosen = pair.second, pair.first, 1 - p_first
    odds = min(p_chosen, 1 - MIN_PROBABILITY) / max(1 - p_chosen, MIN_PROBABILITY)
    return {
        "prompt": _turns(pair.chat),
        "chosen": _reply(chosen),
        "rejected": _reply(rejected),
        "p_chosen": p_chosen,
        "margin": math.log(odds),
        "id": label.id,
    }


def export(
    run: Path,
    out: Path,
    *,
    form: Format = "parquet",
    license: str | None = None,
    language: str | None = None,
) -> dict[str, int]:
    """Write the training data that a run has into the new folder `out`: all of it, or nothing.

    Args:
        run: the run's folder.
        out: the folder to create.
        form: Parquet files, or folders for `datasets.load_from_disk`.
        license: for the card, as the Hub spells it.
        language: for the card, as a two-letter code.

    Returns:
        Name of each table -> number of its rows.

    Raises:
        StoreError: nothing to export, a torn or unfinished file, `out` exists, or another process
            exports to it.
    """
    names = (REVISIONS, PAIRS, PREFERENCES)
    sources = {name: run / name for name in names if exists_finished(run / name)}
    tables = _tables(run, sources)
    if not tables:
        raise StoreError(
            f"{run}: no {PROMPTS}, {REVISIONS} or {PREFERENCES} in it: nothing to export"
        )
    with store.new_folder(out), store.atomic_directory(out) as folder:
        counts = {}
        for name, (rows, columns) in tables.items():
            (folder / name).mkdir(exist_ok=True)
            counts[name] = write_parquet(folder / name / "train.parquet", rows, columns)
        manifests = [store.read_manifest(path) for path in sources.values()]
        labels = sources[PREFERENCES] if "preferences" in tables else None
        card = dataset_card(
            f"{run.resolve().name}: Constitutional AI training data",
            counts,
            [manifest for manifest in manifests if manifest],
            left_out_rows(
                store.read_manifest(run / PROMPTS),
                store.read_rows(sources[REVISIONS], Revision) if REVISIONS in sources else (),
                store.read_rows(labels, Preference) if labels else (),
            ),
            details=_details(run, sources, labels),
            harmful=(run / PROMPTS).exists()
            and any_harmful(store.read_rows(run / PROMPTS, Prompt)),
            saved=form == "datasets",
            license=license,
            language=language,
        )
        store.atomic_write(folder / "README.md", card.content)
        if form == "datasets":
            for name in tables:
                _convert_to_saved_dataset(folder / name)
    return counts


def _details(run: Path, sources: Mapping[str, Path], labels: Path | None) -> list[str]:
    """The sections of the card about the rows of each file that is exported."""
    sections = []
    if (run / PROMPTS).exists():
        sections.append(prompt_details(store.read_rows(run / PROMPTS, Prompt)))
    if REVISIONS in sources:
        sections.append(revision_details(store.read_rows(sources[REVISIONS], Revision)))
    if labels is not None:
        sections.append(preference_details(store.read_rows(labels, Preference)))
    return sections


def has_training_data(run: Path) -> bool:
    """Whether `export` has something to write."""
    return any((run / name).exists() for name in (PROMPTS, REVISIONS, PREFERENCES))


def _tables(run: Path, sources: Mapping[str, Path]) -> Tables:
    tables: Tables = {}
    if REVISIONS in sources:
        tables["sft"] = sft_rows(sources[REVISIONS]), SFT
    if PAIRS in sources and PREFERENCES in sources:
        rows = preference_rows(sources[PAIRS], sources[PREFERENCES])
        tables["preferences"] = rows, PREFERENCE
    if exists_finished(run / PROMPTS):
        tables["prompts"] = prompt_rows(run / PROMPTS), PROMPT
    return tables


def _convert_to_saved_dataset(folder: Path) -> None:
    """Replace `folder/train.parquet` by the files that `datasets.load_from_disk` reads."""
    import datasets

    with (
        blame(StoreError, f"{folder}"),
        tempfile.TemporaryDirectory(prefix="cai-") as temporary,
    ):
        file = folder / "train.parquet"
        rows = datasets.Dataset.from_parquet(str(file), cache_dir=temporary)
        rows.save_to_disk(f"{temporary}/saved")
        shutil.rmtree(folder)
        shutil.copytree(f"{temporary}/saved", folder)


def exists_finished(path: Path) -> bool:
    """False where there is no such file.

    Raises:
        StoreError: its stage is not finished.
    """
    manifest = store.read_manifest(path)
    if manifest is not None and not manifest.finished:
        raise StoreError(f"{path}: only half made: finish the stage {manifest.stage} first")
    return path.exists()


def _turns(chat: Chat) -> list[dict[str, str]]:
    return message_dicts(chat)


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]

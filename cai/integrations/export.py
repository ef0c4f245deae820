"""A run's data in the columns that other trainers read, with a card: Parquet for the Hub, or folders that `datasets` opens."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from cai import store
from cai.artifacts import PAIRS, PREFERENCES, PROMPTS, REVISIONS
from cai.data.writers import Columns, write_parquet
from cai.errors import StoreError, blame
from cai.records import Chat, Pair, Preference, Prompt, Revision, message_dicts
from cai.report.cards import dataset_card, harmful, losses, unusable

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
CERTAIN = 1e-6
"""Margins are cut at the log-odds of this: a label of exactly 1 has no finite one."""
Format = Literal["parquet", "datasets"]


def prompt_rows(prompts: Path) -> Iterator[dict[str, Any]]:
    """The training prompts with their kind, without replies (TRL's prompt-only columns)."""
    for row in store.read(prompts, Prompt):
        yield {"prompt": _turns(row.chat), "kind": row.kind, "id": row.id}


def sft_rows(revisions: Path) -> Iterator[dict[str, Any]]:
    """What the gate let through, as prompt and completion (TRL's conversational columns)."""
    for row in store.read(revisions, Revision):
        if row.final is not None:
            yield {"prompt": _turns(row.chat), "completion": _reply(row.final), "id": row.id}


def preference_rows(pairs: Path, preferences: Path) -> Iterator[dict[str, Any]]:
    """Soft labels as chosen and rejected (TRL's columns), with P(chosen is better) and its log-odds; ties and nulls stay away.

    Both files are in the order of the pairs, which is how a run writes them: one pair is in memory at a time.

    Raises:
        StoreError: the two files don't belong together.
    """
    known = store.read(pairs, Pair)
    for label in store.read(preferences, Preference):
        pair = next((p for p in known if p.id == label.source), None)
        if pair is None:
            raise StoreError(f"{preferences}: a label for pair {label.source}, which is not in {pairs} or comes earlier there")
        if unusable(label) or label.p_first is None:
            continue
        first = label.p_first > 0.5
        p = label.p_first if first else 1 - label.p_first
        odds = math.log(min(p, 1 - CERTAIN) / max(1 - p, CERTAIN))
        chosen, rejected = (pair.first, pair.second) if first else (pair.second, pair.first)
        replies = {"chosen": _reply(chosen), "rejected": _reply(rejected)}
        yield {"prompt": _turns(pair.chat), **replies, "p_chosen": p, "margin": odds, "id": label.id}


def export(
    run: Path, out: Path, *, form: Format = "parquet", license: str | None = None, language: str | None = None
) -> dict[str, int]:
    """Write what the run has of training data into the folder `out`, all of it or nothing; returns rows by name.

    Raises:
        StoreError: nothing to export, a torn or half-made file, or `out` exists.
    """
    if out.exists():
        raise StoreError(f"{out}: exists already: an export goes into a new folder")
    made = {name: run / name for name in (REVISIONS, PAIRS, PREFERENCES) if _whole(run / name)}
    tables: dict[str, tuple[Iterator[dict[str, Any]], Columns]] = {}
    if REVISIONS in made:
        tables["sft"] = sft_rows(made[REVISIONS]), SFT
    if PAIRS in made and PREFERENCES in made:
        tables["preferences"] = preference_rows(made[PAIRS], made[PREFERENCES]), PREFERENCE
    if _whole(run / PROMPTS):
        tables["prompts"] = prompt_rows(run / PROMPTS), PROMPT
    if not tables:
        raise StoreError(f"{run}: no {PROMPTS}, {REVISIONS} or {PREFERENCES} in it: nothing to export")
    with _afresh(out) as folder:
        counts = {}
        for name, (rows, columns) in tables.items():
            (folder / name).mkdir(exist_ok=True)
            counts[name] = write_parquet(folder / name / "train.parquet", rows, columns)
        card = dataset_card(
            f"{run.resolve().name}: Constitutional AI training data",
            counts,
            [m for path in made.values() if (m := store.read_manifest(path))],
            losses(
                store.read_manifest(run / PROMPTS),
                store.read(made[REVISIONS], Revision) if REVISIONS in made else (),
                store.read(made[PREFERENCES], Preference) if "preferences" in tables else (),
            ),
            harmful=(run / PROMPTS).exists() and harmful(store.read(run / PROMPTS, Prompt)),
            saved=form == "datasets",
            license=license,
            language=language,
        )
        store.atomic_write(folder / "README.md", card.content)
        if form == "datasets":
            for name in tables:
                _as_saved(folder / name)
    return counts


VERL: Columns = {
    "data_source": "text",
    "prompt": "chat",
    "reward_model": ("style", "ground_truth"),
    "extra_info": ("chat", "kind", "id"),
}
Engine = Literal["openrlhf", "verl"]


def export_engine(run: Path, out: Path, engine: Engine) -> int:
    """A run's training prompts as `engine` reads them, beside the reward plug-in that asks `cai serve-reward`; rows written.

    Raises:
        StoreError: there are no prompts, or `out` exists.
    """
    if out.exists():
        raise StoreError(f"{out}: exists already: an export goes into a new folder")
    if not _whole(run / PROMPTS):
        raise StoreError(f"{run / PROMPTS}: not made yet: run the first stage")
    rows = store.read(run / PROMPTS, Prompt)
    plugin = f"{engine}_reward.py"
    with _afresh(out) as folder:
        if engine == "verl":
            count = write_parquet(folder / "train.parquet", map(_verl_row, rows), VERL)
        else:
            lines = [json.dumps(_openrlhf_row(prompt), ensure_ascii=False) + "\n" for prompt in rows]
            store.atomic_write(folder / "train.jsonl", "".join(lines))
            count = len(lines)
        store.atomic_write(folder / plugin, files("cai.integrations.plugins").joinpath(plugin).read_text(encoding="utf-8"))
    return count


def _verl_row(prompt: Prompt) -> dict[str, Any]:
    turns = _turns(prompt.chat)
    about = {"chat": json.dumps(turns, ensure_ascii=False), "kind": prompt.kind, "id": prompt.id}
    return {"data_source": "cai", "prompt": turns, "reward_model": {"style": "rule", "ground_truth": ""}, "extra_info": about}


def _openrlhf_row(prompt: Prompt) -> dict[str, Any]:
    turns = _turns(prompt.chat)
    return {"input": turns, "label": json.dumps({"chat": turns, "kind": prompt.kind}, ensure_ascii=False)}


def _as_saved(folder: Path) -> None:
    """Turn `folder/train.parquet` into what `datasets.load_from_disk` reads."""
    import datasets

    with blame(StoreError, f"{folder}"), tempfile.TemporaryDirectory(prefix="cai-") as aside:
        file = folder / "train.parquet"
        rows = datasets.Dataset.from_parquet(str(file), cache_dir=aside)
        rows.save_to_disk(f"{aside}/saved")
        shutil.rmtree(folder)
        shutil.copytree(f"{aside}/saved", folder)


def _afresh(out: Path) -> AbstractContextManager[Path]:
    """An empty folder to fill, which becomes `out`: what a failed export left aside may be another run's."""
    aside = store.partial_path(out)
    if aside.exists():
        with blame(StoreError, f"{aside}: left by a failed export, cannot be removed"):
            shutil.rmtree(aside)
    return store.atomic_directory(out)


def _whole(path: Path) -> bool:
    manifest = store.read_manifest(path)
    if manifest is not None and not manifest.finished:
        raise StoreError(f"{path}: only half made: finish the stage {manifest.stage} first")
    return path.exists()


def _turns(chat: Chat) -> list[dict[str, str]]:
    return message_dicts(chat)


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]

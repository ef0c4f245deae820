"""A run's replies as samples of Inspect, one file for each subject, with the grades beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cai import store
from cai.artifacts import REPLIES, SCORES, subjects_of
from cai.errors import StoreError
from cai.evals.refusal import answered
from cai.evals.replies import item_id
from cai.records import EvalReply, message_dicts


def export_inspect(run: Path, out: Path) -> dict[str, int]:
    """Write the replies of a run's evaluation into the new folder `out`: all of them, or nothing.

    `SUBJECT.jsonl` has samples for `inspect eval cai/replies -T data=FILE`. `SUBJECT-scores.jsonl`
    has the run's grades for Inspect's scorer `precomputed_scores`. A reply without a grade has no
    line there: Inspect then leaves its sample unscored.

    Returns:
        Name of each subject -> number of its replies.

    Raises:
        StoreError: there are no replies, `out` exists, or another process exports to it.
    """
    source = run / REPLIES
    manifest = store.read_manifest(run / SCORES)
    if not source.exists() or (manifest is not None and not manifest.finished):
        raise StoreError(f"{source}: not there yet: `cai eval` of that run writes it")
    replies = list(store.read_rows(source, EvalReply))
    counts = {}
    with store.new_folder(out), store.atomic_directory(out) as folder:
        for subject in subjects_of(reply.subject for reply in replies):
            rows = [reply for reply in replies if reply.subject == subject]
            _write_lines(folder / f"{subject}.jsonl", map(_sample, rows))
            scores = (_score(row) for row in rows if row.grade.correct is not None)
            _write_lines(folder / f"{subject}-scores.jsonl", scores)
            counts[subject] = len(rows)
    return counts


def _sample(reply: EvalReply) -> dict[str, Any]:
    metadata = {
        "prompt_id": reply.source,
        "kind": reply.kind,
        "category": reply.category,
        "subject": reply.subject,
        "draw": reply.draw,
        "reply": reply.response if answered(reply) else None,
        "finished": reply.finished,
    }
    if not answered(reply):
        metadata["unscored"] = reply.grade.unscored
    return {
        "id": item_id(reply),
        "input": message_dicts(reply.chat),
        "target": "",
        "metadata": metadata,
    }


def _score(reply: EvalReply) -> dict[str, Any]:
    grade = reply.grade
    return {
        "id": item_id(reply),
        "value": float(bool(grade.correct)),
        "answer": reply.response,
        "explanation": f"{grade.class_}: {grade.style}, {grade.degree}",
    }


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    store.atomic_write(path, "".join(lines))

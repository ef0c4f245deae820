"""What a run's fine-tuning learns from: replies of its revisions and demonstrations, filtered and
weighted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cai import store
from cai.artifacts import PROMPTS, REVISIONS
from cai.data.demonstrations import demonstrations
from cai.data.split import clean_training
from cai.errors import TrainError
from cai.pipeline.context import RunContext, load_rows
from cai.pipeline.staleness import source_of
from cai.records import Message, Prompt, Revision
from cai.train.ppo.prompt_sampler import group_of
from cai.train.sft_rows import SFTRow, revision_rows, select_rows


def sft_rows(ctx: RunContext) -> tuple[list[SFTRow], dict[str, int]]:
    """(rows to train on, some of them several times; what was left out or added, by reason).

    Raises:
        TrainError: no training prompt is of a group that `sft.weights` names, or no row is left.
    """
    config = ctx.run.sft
    revisions: list[Revision] = load_rows(ctx.path(REVISIONS), Revision)
    rows = [row for r in revisions for row in revision_rows(r, config)]
    if config.weights:
        prompts: dict[str, Prompt] = {p.id: p for p in load_rows(ctx.path(PROMPTS), Prompt)}
        rows = []
        for revision in revisions:
            prompt = source_of(revision, prompts, ctx.path(REVISIONS), PROMPTS)
            rows += revision_rows(revision, config, prompt.kind, prompt.category)
        _check_groups(ctx, list(prompts.values()))
    rows, reasons = _cleaned(ctx, rows, ctx.resolved.against)
    extra, extra_counts = _extra_rows(ctx)
    rows, selected = select_rows([*rows, *extra], config, ctx.seed)
    counts = {reason: n for reason, n in reasons.items() if reason != "kept"}
    counts |= extra_counts | selected
    if not rows:
        listed = ", ".join(f"{n} {reason}" for reason, n in counts.items())
        raise TrainError(
            f"sft: no row is left to learn from, of {len(revisions)} revisions"
            f"{f' ({listed})' if listed else ''}: see `dropped` in {REVISIONS}, and sft.weights and"
            " sft.cut_replies"
        )
    return rows, counts


def extra_provenance(ctx: RunContext) -> dict[str, str]:
    """What decides the demonstrations that are learnt: their files, and the prompts
    which they must not repeat.
    """
    files = zip(ctx.run.sft.extra, ctx.resolved.extra, strict=True)
    provenance = {f"extra {name}": store.file_digest(path) for name, path in files}
    if provenance:
        for path in ctx.unseen_prompts():
            provenance[f"input {path.name}"] = store.content_digest(path)
    return provenance


def _extra_rows(ctx: RunContext) -> tuple[list[SFTRow], dict[str, int]]:
    """(the demonstrations that hygiene lets through; how many, and what it dropped, by reason).

    None may repeat a prompt of the evaluation.
    """
    if not ctx.resolved.extra:
        return [], {}
    rows = [
        SFTRow(
            store.digest(prompt.id, reply),
            prompt.chat,
            reply,
            kind=prompt.kind,
            category=prompt.category,
        )
        for file in ctx.resolved.extra
        for prompt, reply in demonstrations(file)
    ]
    kept, reasons = _cleaned(ctx, rows, [*ctx.unseen_prompts(), *ctx.resolved.against])
    dropped = {f"extra {reason}": n for reason, n in reasons.items() if reason != "kept"}
    return kept, {"extra": len(kept)} | dropped


def row_counts_line(rows: int, counts: Mapping[str, int], is_cut_kept: bool) -> str:
    """`sft: 190 rows; 20 extra; left out: 12 same reply, 3 cut; 170 before weights`."""
    kept = {"before weights", "extra", *(["cut"] if is_cut_kept else [])}
    left_out = [f"{count} {reason}" for reason, count in counts.items() if reason not in kept]
    parts = [f"sft: {rows} rows"]
    if "extra" in counts:
        parts.append(f"{counts['extra']} extra")
    if left_out:
        parts.append(f"left out: {', '.join(left_out)}")
    if is_cut_kept and "cut" in counts:
        parts.append(f"{counts['cut']} cut")
    if "before weights" in counts:
        parts.append(f"{counts['before weights']} before weights")
    return "; ".join(parts)


def _check_groups(ctx: RunContext, prompts: Sequence[Prompt | SFTRow]) -> None:
    weights = ctx.run.sft.weights
    present = {group_of(prompt, weights) for prompt in prompts}
    if missing := [name for name in weights if name not in present]:
        raise TrainError(
            f"sft: no training prompt is {missing[0]}, which sft.weights names:"
            " leave it out there, or add such prompts"
        )


def _cleaned(
    ctx: RunContext, rows: Sequence[SFTRow], against: Sequence[Path]
) -> tuple[list[SFTRow], Counter[str]]:
    """(the rows that hygiene lets through, masked if so configured; reason -> rows)."""
    chats = [(*row.chat, Message(role="assistant", content=row.reply)) for row in rows]
    cleaned, reasons = clean_training(chats, ctx.run.hygiene, against)
    kept = [
        replace(rows[index], chat=chat[:-1], reply=chat[-1].content)
        for index, chat in cleaned.items()
    ]
    return kept, reasons

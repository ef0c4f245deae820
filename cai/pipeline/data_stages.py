"""Stages that make data: prompts, revisions, pairs, AI preferences."""

from __future__ import annotations

from collections.abc import Sequence

from cai import store, templates
from cai.artifacts import HELD_OUT, PAIRS, PREFERENCES, PROMPTS, REVISIONS, REWARD, SFT, VALIDATION
from cai.data.filters import needs_token_counts
from cai.data.split import subsample
from cai.errors import ConfigError, StoreError
from cai.generate.diversity import diversity_metrics
from cai.generate.pair import pair_items, paired_item, pairer
from cai.generate.reply_scores import score_provenance
from cai.generate.revise import ReviseConfig, revise_items, revised_item, reviser
from cai.pipeline.context import RunContext, hygiene_provenance, load_rows
from cai.pipeline.judge_audits import warn_before_labels
from cai.pipeline.run_prompts import read_run_prompts
from cai.pipeline.staleness import (
    LABEL_PARTS,
    preference_is_current,
    prompt_kinds,
    revise_parts,
    revision_is_current,
)
from cai.records import Pair, Preference, Prompt, Revision
from cai.reward.score_labels import label_scale, pair_labeller
from cai.rubric import training_gate


def prompts(ctx: RunContext) -> None:
    """00-prompts.jsonl for training, 01-held-out.jsonl for evaluation, and 02-validation.jsonl,
    which the policy is chosen by.
    """
    run = ctx.run
    inputs = zip(run.prompts, ctx.resolved.prompts, strict=True)
    provenance = {
        "held_out": f"{run.held_out} by {run.split_by}",
        "seed": str(run.seed),
        **({"dev": f"{run.dev}, evaluated: {run.evaluate_on}"} if run.dev else {}),
        **({"validation": f"{run.validation}"} if run.validation else {}),
        **{f"input {name}": store.file_digest(path) for name, path in inputs},
        **hygiene_provenance(ctx.resolved, run.hygiene),
    }
    if needs_token_counts(run.hygiene):
        from cai.modeling.token_counts import tokenizer_digest

        provenance["tokenizer"] = tokenizer_digest(run.model)
    train, held_out, validation, counts = read_run_prompts(ctx.resolved)
    if not train or not held_out:
        grouped = any(getattr(prompt, run.split_by) for prompt in (*train, *held_out))
        reason = f", each {run.split_by} on one side" if grouped else ""
        raise StoreError(
            f"{', '.join(run.prompts)}: too few prompts to keep a share of {run.held_out}"
            f" for evaluation{reason}"
        )
    out = ctx.path(PROMPTS)
    # only now: a file with a mistake in it must not lay claim to the folder
    if ctx.begin(out, "prompts", provenance):
        return
    files = {ctx.path(HELD_OUT): held_out}
    if validation:
        files[ctx.path(VALIDATION)] = validation
    for path, rows in (files | {out: train}).items():
        store.atomic_write(path, "".join(prompt.line() + "\n" for prompt in rows))
    dropped = {reason: n for reason, n in counts.items() if reason != "kept"}
    counts_of_rows = {"train": len(train), "held_out": len(held_out), **dropped}
    counts_of_rows |= {"validation": len(validation)} if validation else {}
    store.finish_artifact(out, *files, **counts_of_rows)


def revise(ctx: RunContext) -> None:
    """10-revisions.jsonl: critiques and revisions of the model's own replies."""
    config, out = ctx.run.revise, ctx.path(REVISIONS)
    author = ctx.lm(ctx.run.model)
    provenance = ctx.provenance(
        config,
        [PROMPTS],
        revise_parts(config),
        model=author.fingerprint,
        templates=templates.templates_digest(),
        **ctx.answer_settings(ctx.run.model),
    )
    if ctx.begin_or_reuse(out, "revise", provenance, Revision, revision_is_current(ctx), SFT):
        return
    step = reviser(ctx.constitution, author, config, training_gate(ctx.rubric), ctx.seed)
    train = load_rows(ctx.path(PROMPTS), Prompt)
    _check_categories(config, train)
    rows = revise_items(subsample(train, config.prompts, ctx.seed, "revise"), config)
    window = author.max_concurrency // config.samples or 1
    ctx.map_rows(
        author,
        out,
        rows,
        step,
        Revision,
        "revise",
        max_concurrency=window,
        source=revised_item,
    )
    revisions: list[Revision] = load_rows(out, Revision)
    revised = [r.final for r in revisions if r.final is not None and r.chosen_round is not None]
    counts: dict[str, float | None] = {
        "rows": len(revisions),
        "kept": sum(r.final is not None for r in revisions),
        "revised": len(revised),
    }
    if cut := sum(r.final is not None and r.final_finished is False for r in revisions):
        counts["cut"] = cut
    for name, value in diversity_metrics(revised)._asdict().items():
        counts[f"revised {name}"] = value if value is None else round(value, 3)
    counts |= ctx.record_nulls("revise", [r.dropped for r in revisions])
    store.finish_artifact(out, **counts)


def _check_categories(config: ReviseConfig, train: Sequence[Prompt]) -> None:
    present = {prompt.category for prompt in train}
    if missing := [name for name in config.self_correction if name not in present]:
        raise ConfigError(
            f"revise.self_correction: no training prompt is of the category {missing[0]}:"
            " leave it out there, or add such prompts"
        )


def pair(ctx: RunContext) -> None:
    """30-pairs.jsonl: pairs of the fine-tuned model's replies to one prompt, or of another's."""
    config, out = ctx.run.pair, ctx.path(PAIRS)
    if config.subject is None:
        provenance = ctx.provenance(config, [PROMPTS, SFT])
    else:
        answers = ctx.answer_settings(config.subject)
        model = ctx.lm(config.subject).fingerprint
        provenance = ctx.provenance(config, [PROMPTS], subject=model, **answers)
    # no pair draws a principle: none is kept for its principles, but for having an answer
    if ctx.begin_or_reuse(out, "pair", provenance, Pair, lambda row, edited: True, PREFERENCES):
        return
    subject = ctx.lm(config.subject or f"local:{ctx.path(SFT)}")
    train = load_rows(ctx.path(PROMPTS), Prompt)
    rows = pair_items(subsample(train, config.prompts, ctx.seed, "pair"), config, ctx.seed)
    # a prompt's pairs share replies: they stay in one window
    window = (subject.max_concurrency // config.replies or 1) * config.per_prompt
    step = pairer(subject, config, ctx.seed)
    ctx.map_rows(subject, out, rows, step, Pair, "pair", max_concurrency=window, source=paired_item)
    nulls = ctx.record_nulls("pair", [p.unscored for p in load_rows(out, Pair)])
    store.finish_artifact(out, rows=len(rows), **nulls)


def label(ctx: RunContext) -> None:
    """40-preferences.jsonl: which reply is better, by principle, as a probability."""
    run, out = ctx.run, ctx.path(PREFERENCES)
    judge = ctx.lm(run.judge or run.model)
    provenance = ctx.provenance(
        run.label,
        [PAIRS],
        LABEL_PARTS,
        judge=judge.fingerprint,
        templates=templates.templates_digest(),
        **score_provenance(run.label),
        **ctx.answer_settings(run.judge or run.model),
        **label_scale(judge, run.label),
    )
    if ctx.begin_or_reuse(out, "label", provenance, Preference, preference_is_current(ctx), REWARD):
        return
    warn_before_labels(ctx, judge.fingerprint)
    kinds = prompt_kinds(ctx)
    step = pair_labeller(
        ctx.constitution,
        judge,
        run.label,
        ctx.seed,
        lambda pair: kinds.get(pair.source, (None, None)),
    )
    ctx.map_rows(judge, out, load_rows(ctx.path(PAIRS), Pair), step, Preference, "label")
    labels: list[Preference] = load_rows(out, Preference)
    nulls = ctx.record_nulls("label", [x.unscored for x in labels])
    unscored = sum(x.p_first is None for x in labels)
    store.finish_artifact(out, rows=len(labels), unscored=unscored, **nulls)

"""Comparisons of base, SFT, policy and the run's named subjects: their replies to the same prompts,
judged in both orders, and rated.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from cai import store, templates
from cai.artifacts import EVALUATIONS, HELD_OUT, REPLIES, SUBJECTS
from cai.data.split import subsample
from cai.data.turns import read_turns, with_turns
from cai.errors import is_passing
from cai.evals.elo import elo_scores
from cai.evals.judged_pairs import (
    COMPARISON_LABEL,
    ComparisonItem,
    JudgedPair,
    SubjectReply,
    comparison_id,
    comparison_items,
    comparison_step,
    reply_id,
    subject_step,
)
from cai.evals.replies import EvalConfig, prompt_draws
from cai.generate.label import labeller
from cai.generate.row_reuse import set_aside
from cai.generate.unanswered import null_reason
from cai.lm import LM
from cai.pipeline.context import RunContext, load_rows
from cai.records import Chat, EvalReply, Prompt, PromptDraw, Score, chat_of

ELO = "elo"
"""Folder of the replies and verdicts, in that of the other evaluations."""
Replies = dict[str, dict[str, SubjectReply]]
"""Subject -> `PromptDraw.id` -> reply."""


def comparison_scores(ctx: RunContext) -> list[Score]:
    """Ratings and win rates; none where the run names no subject.

    75-evaluations/elo/replies/NAME.jsonl has a named subject's replies, and
    75-evaluations/elo/comparisons/FIRST/SECOND.jsonl the verdicts on two subjects. What is there is
    not made again, but for verdicts on a reply that is another now.
    """
    if not ctx.run.eval.subjects:
        return []
    draws = compared_draws(load_rows(ctx.path(HELD_OUT), Prompt), ctx.run.eval, ctx.seed)
    replies = _run_replies(ctx, draws)
    for name in ctx.run.eval.subjects:
        replies[name] = _named_replies(ctx, name, draws)
    rows: list[JudgedPair] = []
    for first, second in combinations(replies, 2):
        items = comparison_items(draws, {name: replies[name] for name in (first, second)})
        rows += _verdicts(ctx, (first, second), items)
    ctx.close_models()
    return elo_scores(rows, list(replies), seed=ctx.seed)


def compared_draws(held_out: Sequence[Prompt], config: EvalConfig, seed: int) -> list[PromptDraw]:
    """What the subjects answer: prompts of the evaluation, with its draws."""
    evaluated = subsample(held_out, config.prompts, seed, "eval")
    return prompt_draws(
        subsample(evaluated, config.compared_prompts, seed, "compare"), config.draws
    )


def turns_of(ctx: RunContext, name: str) -> Chat:
    """What a named subject begins with: its system turn, then the turns of its file."""
    system = ctx.run.eval.subjects[name].system
    turns = () if system is None else chat_of(("system", system))
    file = ctx.resolved.subject_turns.get(name)
    return turns if file is None else with_turns(turns, read_turns(file))


def _run_replies(ctx: RunContext, draws: Sequence[PromptDraw]) -> Replies:
    """Those of base, SFT and policy, which the evaluation has sampled already."""
    compared = {draw.id for draw in draws}
    replies: Replies = {name: {} for name in SUBJECTS}
    for row in load_rows(ctx.path(REPLIES), EvalReply):
        reply = _subject_reply(row)
        if reply_id(reply) in compared:
            replies[row.subject][reply_id(reply)] = reply
    return replies


def _subject_reply(reply: EvalReply) -> SubjectReply:
    """A graded reply as one to compare."""
    reason = reply.grade.unscored
    return SubjectReply(
        source=reply.source,
        subject=reply.subject,
        draw=reply.draw,
        response=reply.response,
        finished=reply.finished,
        unanswered=reason if reason and reason.startswith("no answer") else None,
    )


def _named_replies(
    ctx: RunContext, name: str, draws: Sequence[PromptDraw]
) -> dict[str, SubjectReply]:
    """Replies of one named subject, which leaves memory again before the next is loaded."""
    config, spec = ctx.run.eval, ctx.run.eval.subjects[name].model or ctx.run.model
    lm, turns = ctx.lm(spec), turns_of(ctx, name)
    provenance = ctx.provenance(
        config.of_replies,
        [],
        model=lm.fingerprint,
        turns=store.digest(*turns),
        **ctx.answer_settings(spec),
    )
    out = ctx.path(EVALUATIONS) / ELO / "replies" / f"{name}.jsonl"
    file = _RowFile(out, f"eval {ELO} {name}", SubjectReply, reply_id)
    step = subject_step(name, lm, turns, config, ctx.seed)
    rows = file.rows(ctx, draws, (lm, step), provenance)
    ctx.close_models()
    return {reply_id(row): row for row in rows}


def _verdicts(
    ctx: RunContext, subjects: tuple[str, str], items: Sequence[ComparisonItem]
) -> list[JudgedPair]:
    """The judge's verdicts on two subjects."""
    first, second = subjects
    spec = ctx.run.judge or ctx.run.model
    judge = ctx.lm(spec)
    provenance = ctx.provenance(
        COMPARISON_LABEL,
        [],
        judge=judge.fingerprint,
        templates=templates.templates_digest(),
        **ctx.answer_settings(spec),
    )
    out = ctx.path(EVALUATIONS) / ELO / "comparisons" / first / f"{second}.jsonl"
    file = _RowFile(out, f"eval {ELO} {first} {second}", JudgedPair, comparison_id)
    label = labeller(ctx.constitution, judge, COMPARISON_LABEL, ctx.seed, lambda pair: (None, None))
    return file.rows(ctx, items, (judge, comparison_step(label)), provenance)


@dataclass(frozen=True)
class _RowFile:
    """A file with one row for each of some items, which may be others at the next call."""

    out: Path
    stage: str
    kind: Any
    source: Callable[[Any], str]
    """Id of the item that a row is about."""

    def rows(
        self,
        ctx: RunContext,
        items: Sequence[Any],
        work: tuple[LM, Callable[[Any], Awaitable[Any]]],
        provenance: Mapping[str, str],
    ) -> list[Any]:
        """The rows of `items`, in their order: those that are there, and new ones for the others.

        Args:
            work: the model that is called, and the step that makes a row.
        """
        self.out.parent.mkdir(parents=True, exist_ok=True)
        finished, current = ctx.begin(self.out, self.stage, provenance), {i.id for i in items}
        if not finished or not self._is_complete(current):
            store.claim_artifact(self.out, self.stage, provenance)
            set_aside(
                self.out,
                self.kind,
                lambda row: self.source(row) in current and not is_passing(null_reason(row)),
                keep_stale=False,
            )
            self._make(ctx, items, work)
        by_item = {self.source(row): row for row in load_rows(self.out, self.kind)}
        return [by_item[item.id] for item in items]

    def _is_complete(self, current: set[str]) -> bool:
        """Whether the file has a row, or a lasting reason for none, on exactly these items."""
        rows = load_rows(self.out, self.kind)
        is_lasting = not any(is_passing(null_reason(row)) for row in rows)
        return is_lasting and {self.source(row) for row in rows} == current

    def _make(
        self,
        ctx: RunContext,
        items: Sequence[Any],
        work: tuple[LM, Callable[[Any], Awaitable[Any]]],
    ) -> None:
        lm, step = work
        ctx.map_rows(lm, self.out, items, step, self.kind, self.stage, source=self.source)
        rows = load_rows(self.out, self.kind)
        nulls = ctx.record_nulls(self.stage, [null_reason(row) for row in rows])
        if ctx.nulls[self.stage]:
            ctx.notify(f"{self.stage}: {ctx.nulls[self.stage]}")
        store.finish_artifact(self.out, rows=len(rows), **nulls)


def num_comparisons(config: EvalConfig, draws: int) -> int:
    """Verdicts on every two of base, SFT, policy and the named subjects."""
    subjects: Mapping[str, object] = {**SUBJECTS, **config.subjects}
    return draws * len(list(combinations(subjects, 2)))

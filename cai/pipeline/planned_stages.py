"""The stages of a run that call a model, as the forecast of its cost tries them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.artifacts import SUBJECTS
from cai.catalog.prepare import prepare
from cai.data.split import subsample
from cai.evals.judged_pairs import COMPARISON_LABEL, subject_step
from cai.evals.replies import prompt_draws, reply_step
from cai.generate.label import labeller
from cai.generate.pair import pair_items, pairer
from cai.generate.revise import revise_items, reviser
from cai.modeling.model_spec import is_reward_spec
from cai.pipeline.config import Run
from cai.pipeline.context import RunContext
from cai.pipeline.listed_evaluations import listed_task
from cai.pipeline.probe import Probe
from cai.pipeline.run_prompts import read_run_prompts
from cai.pipeline.subject_comparisons import compared_draws, num_comparisons, turns_of
from cai.records import Pair, Prompt
from cai.reward.direct_rlaif import rate
from cai.reward.score_labels import pair_labeller


@dataclass(frozen=True)
class PlannedStage:
    """A stage to be probed."""

    name: str
    model: str
    probes: Sequence[Any]
    """Rows to choose the probed ones from."""
    step: Callable[[Any], Awaitable[Any]]
    rows: int
    """Of the whole stage."""
    is_reused: bool
    """Whether the run needs the same answers, and takes them from its request log."""
    prompts: int | None = None
    """Prompts that the rows come from; None: the rows do not grow with the training prompts."""


class Probes:
    """The models that are tried, each opened once."""

    def __init__(self, ctx: RunContext) -> None:
        self.ctx, self.opened = ctx, dict[str, Probe]()

    def __call__(self, spec: str) -> Probe:
        if spec not in self.opened:
            self.opened[spec] = Probe(self.ctx.lm(spec))
        return self.opened[spec]

    async def aclose(self) -> None:
        for probe in self.opened.values():
            await probe.aclose()


def planned_stages(ctx: RunContext, probes: Probes) -> Iterator[PlannedStage]:
    """The stages that call a model. Labels and ratings are probed on the pairs that the probe of
    `pair` sampled.
    """
    run, seed = ctx.run, ctx.seed
    judge_spec, sampled = run.judge or run.model, run.pair.subject
    author, judge = probes(run.model), probes(judge_spec)
    train, held_out, validation, _ = read_run_prompts(ctx.resolved)

    def gate(prompt: Prompt, reply: str) -> None:
        """Lets everything through: what a gate drops costs as much as what it keeps."""

    revised = subsample(train, run.revise.prompts, seed, "revise")
    revisions = revise_items(revised, run.revise)
    step = reviser(ctx.constitution, author, run.revise, gate, seed)
    yield PlannedStage(
        "revise", run.model, revisions, step, len(revisions), True, prompts=len(revised)
    )

    pairs: list[Pair] = []
    sample_pair = pairer(probes(sampled or run.model), run.pair, seed)

    async def keep_pair(item: Any) -> None:
        pairs.append(await sample_pair(item))

    paired = subsample(train, run.pair.prompts, seed, "pair")
    pair_rows = pair_items(paired, run.pair, seed)
    num_pairs, is_reused = len(pair_rows), sampled is not None
    yield PlannedStage(
        "pair",
        sampled or run.model,
        pair_rows,
        keep_pair,
        num_pairs,
        is_reused,
        prompts=len(paired),
    )

    kinds = {prompt.id: (prompt.kind, prompt.category) for prompt in train}
    label = pair_labeller(
        ctx.constitution, judge, run.label, seed, lambda pair: kinds.get(pair.source, (None, None))
    )
    if not is_reward_spec(judge_spec):  # whose scores cost no call
        yield PlannedStage("label", judge_spec, pairs, label, num_pairs, False, prompts=len(paired))

    async def rate_first(pair: Pair) -> None:
        await rate(judge, pair.chat, pair.first)

    evaluated = subsample(held_out, run.eval.prompts, seed, "eval")
    if run.reward_weights.direct:
        ratings = _ratings(run, len(validation), len(evaluated))
        yield PlannedStage("ppo", judge_spec, pairs, rate_first, ratings, False)

    draws = prompt_draws(evaluated, run.eval.draws)
    answer = reply_step("base", author, ctx.rubric, run.eval, seed)
    yield PlannedStage("eval", run.model, draws, answer, len(draws) * len(SUBJECTS), True)

    yield from _listed_stages(ctx, probes)
    if run.eval.subjects:
        yield from _comparison_stages(ctx, probes, held_out, pairs)


def _listed_stages(ctx: RunContext, probes: Probes) -> Iterator[PlannedStage]:
    """The evaluations that the run lists. One that uses what the run is yet to make is left out."""
    for entry in ctx.resolved.evaluations:
        task = listed_task(ctx, entry)
        spec, preference = task.options.get("judge"), task.options.get("preference")
        if preference is not None and not Path(preference).exists():
            ctx.notify(f"plan: eval {entry.title} is left out: {preference} is not there yet")
            continue
        prepared = prepare(task, None if spec is None else probes(spec))
        step = prepared.step("base", probes(ctx.run.model))
        rows = len(prepared.items) * len(SUBJECTS)
        yield PlannedStage(f"eval {entry.title}", ctx.run.model, prepared.items, step, rows, True)


def _comparison_stages(
    ctx: RunContext, probes: Probes, held_out: Sequence[Prompt], pairs: Sequence[Pair]
) -> Iterator[PlannedStage]:
    """Replies of the named subjects, and verdicts, which are probed on other pairs."""
    run, seed = ctx.run, ctx.seed
    draws = compared_draws(held_out, run.eval, seed)
    for name, subject in run.eval.subjects.items():
        spec = subject.model or run.model
        answer = subject_step(name, probes(spec), turns_of(ctx, name), run.eval, seed)
        yield PlannedStage(f"eval elo {name}", spec, draws, answer, len(draws), True)
    spec = run.judge or run.model
    judge = labeller(
        ctx.constitution, probes(spec), COMPARISON_LABEL, seed, lambda pair: (None, None)
    )
    verdicts = num_comparisons(run.eval, len(draws))
    yield PlannedStage("eval elo", spec, pairs, judge, verdicts, False)


def _ratings(run: Run, validation_prompts: int, evaluated: int) -> int:
    """Replies that a judge rates: those of PPO's updates and validations, and the evaluation's. All
    are alike, and counted in one: a second probe would cost calls.
    """
    ppo = run.ppo
    validations = 1 + math.ceil(ppo.num_updates / ppo.validation.every)
    scored = min(run.eval.reward_prompts or evaluated, evaluated) * run.eval.draws
    return (
        ppo.num_updates * ppo.rollout.sampled_responses
        + validations * validation_prompts * ppo.validation.draws
        + scored * len(SUBJECTS)
    )

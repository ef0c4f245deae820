"""What a run will cost, from a few rows of each stage that asks a model: calls, tokens, money and hours, with an interval.

Rows from all over a stage's input go through the stage's own step, and an endpoint's answers land in the run's request log.
Stages that ask a model which does not exist yet ask the run's own instead: of those answers the run can use none.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from scipy.stats import t as student

from cai.artifacts import SUBJECTS
from cai.async_map import gather
from cai.data.split import subsample
from cai.evals.replies import items, replier
from cai.generate.label import labeller
from cai.generate.pair import pair_items, pairer
from cai.generate.revise import revise_items, reviser
from cai.lm.base import LM, Sample
from cai.lm.budget import Budget, Prices
from cai.pipeline.context import RunContext, read_run_prompts
from cai.records import Chat, Pair
from cai.reward.direct_rlaif import rate

CHARACTERS_PER_TOKEN = 4.0
"""Assumed where a model has told no count."""


@dataclass(frozen=True)
class Interval:
    """A total over all rows, from the mean of the probed ones, with 95 % limits."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """One stage. `shared`: prompt tokens that a prefix cache would not read again."""

    stage: str
    model: str
    rows: int
    probed: int
    calls: Interval
    prompt: Interval
    shared: float
    completion: Interval
    cost: Interval
    hours: Interval


@dataclass
class Used:
    """What one row used."""

    calls: int = 0
    prompt: float = 0.0
    shared: float = 0.0
    completion: int = 0
    seconds: float = 0.0
    """Waited for answers, added up over calls."""


ROW: ContextVar[Used] = ContextVar("ROW")
"""The entry of the row that a task works on."""


class Probe:
    """An LM that writes down, in the entry of the row at work, what each call used."""

    def __init__(self, lm: LM) -> None:
        self.lm, self.fingerprint, self.max_concurrency = lm, lm.fingerprint, lm.max_concurrency
        self.last: dict[str, str] = {}
        self.characters = self.tokens = 0

    async def sample(self, chat: Chat, *, max_tokens: int, temperature: float, seed: int, stop: Sequence[str] = ()) -> Sample:
        started = time.perf_counter()
        said = await self.lm.sample(chat, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop)
        self.characters += len(_text(chat))
        self.tokens += said.prompt_tokens
        self._add("sample", chat, said.prompt_tokens, said.completion_tokens, time.perf_counter() - started)
        return said

    async def aclose(self) -> None:
        await self.lm.aclose()

    async def choice_logprobs(self, chat: Chat, choices: Sequence[str], *, prefill: str = "") -> list[float] | None:
        started = time.perf_counter()
        found = await self.lm.choice_logprobs(chat, choices, prefill=prefill)
        ratio = self.tokens / self.characters if self.characters else 1 / CHARACTERS_PER_TOKEN
        self._add("choice", chat, ratio * len(_text(chat)), 1, time.perf_counter() - started)
        return found

    def _add(self, kind: str, chat: Chat, prompt: float, completion: int, seconds: float) -> None:
        text = _text(chat)
        before = self.last.get(kind, "")
        same = next((i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b), min(len(text), len(before)))
        self.last[kind] = text
        row = ROW.get()
        row.calls, row.prompt, row.completion = row.calls + 1, row.prompt + prompt, row.completion + completion
        row.shared, row.seconds = row.shared + prompt * same / max(1, len(text)), row.seconds + seconds


def _text(chat: Chat) -> str:
    return "\n".join(f"{m.role}: {m.content}" for m in chat)


def total(values: Sequence[float], rows: int) -> Interval:
    """`rows` times the mean, with 95 % limits by Student's t; of one value the limits are unknown, and infinite above."""
    mean = rows * fmean(values)
    if len(values) >= rows:
        return Interval(mean, mean, mean)
    if len(values) < 2:
        return Interval(mean, 0.0, math.inf)
    spare = math.sqrt(1 - len(values) / rows)  # the probed rows are known
    half = rows * float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values)) * spare
    return Interval(mean, max(0.0, mean - half), mean + half)


def forecast(stage: str, model: str, used: Sequence[Used], rows: int, prices: Prices, pace: float) -> Forecast:
    """Add one stage up. `pace`: seconds that pass for each second of waiting, with as many calls in flight as there will be."""
    return Forecast(
        stage=stage,
        model=model,
        rows=rows,
        probed=len(used),
        calls=total([u.calls for u in used], rows),
        prompt=total([u.prompt for u in used], rows),
        shared=rows * fmean(u.shared for u in used),
        completion=total([u.completion for u in used], rows),
        cost=total([prices.cost(u.prompt, u.completion) for u in used], rows),
        hours=total([u.seconds * pace / 3600 for u in used], rows),
    )


def plan(ctx: RunContext, count: int) -> list[Forecast]:
    """Probe `count` rows of every stage that asks a model, all of them in flight together.

    Raises:
        BackendError, BudgetError: as the stages themselves would.
    """
    run, seed = ctx.run, ctx.seed
    train, held, _ = read_run_prompts(ctx.loaded)
    author, judge = Probe(ctx.lm(run.model)), Probe(ctx.lm(run.judge or run.model))
    pairs: list[Pair] = []

    draw = pairer(author, run.pair, seed)

    async def keep(item: Any) -> None:
        pairs.append(await draw(item))

    async def rated(pair: Pair) -> None:
        await rate(judge, pair.chat, pair.first)

    about = {p.id: (p.kind, p.category) for p in train}
    gate = lambda prompt, reply: None  # noqa: E731  # what the gate drops costs as much as what it keeps
    revised = revise_items(subsample(train, run.revise.prompts, seed, "revise"), run.revise)
    paired = pair_items(subsample(train, run.pair.prompts, seed, "pair"), run.pair, seed)
    asked = items(subsample(held, run.eval.prompts, seed, "eval"), run.eval.draws)
    label = labeller(ctx.constitution, judge, run.label, seed, lambda pair: about.get(pair.source, (None, None)))
    stages: list[tuple[str, str, Sequence[Any], Callable[[Any], Awaitable[Any]], int]] = [
        ("revise", run.model, revised, reviser(ctx.constitution, author, run.revise, gate, seed), len(revised)),
        ("pair", run.model, paired, keep, len(paired)),
        ("label", run.judge or run.model, pairs, label, len(paired)),
        *([("ppo", run.judge or run.model, pairs, rated, run.ppo.updates * run.ppo.episodes)] if run.mix.direct else []),
        ("eval", run.model, asked, replier("base", author, ctx.rubric, run.eval, seed), len(asked) * len(SUBJECTS)),
    ]

    async def work() -> list[Forecast]:
        found = []
        try:
            for stage, model, rows, step, whole in stages:
                told, chosen = ctx.progress(f"plan {stage}"), evenly_spaced(rows, count)
                told(0, len(chosen))
                started = time.perf_counter()
                used = await gather([_tracked(step, row) for row in chosen])
                passed, waited = time.perf_counter() - started, sum(u.seconds for u in used)
                told(len(chosen), len(chosen))
                remote = model.startswith("http")  # a model in this process is busy all the time, an endpoint is waited for
                pace = 1 / run.http.connections if remote else passed / waited if waited else 0.0
                if used:
                    found.append(forecast(stage, model, used, whole, run.prices, pace))
        finally:
            for probe in (author, judge):
                await probe.aclose()
        return found

    return asyncio.run(work())


async def _tracked(step: Callable[[Any], Awaitable[Any]], row: Any) -> Used:
    """What one row used. A task has its own context, and so have the calls that it makes."""
    used = Used()
    ROW.set(used)
    await step(row)
    return used


def evenly_spaced(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of the rows at equal distances: files often hold one kind of prompt after the other."""
    if count >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


def table(forecasts: Sequence[Forecast]) -> Table:
    """A row per stage, and what money and hours come to."""
    heads = ("rows", "calls", "prompt tokens", "in a shared prefix", "completion tokens", "cost", "hours")
    told = Table("stage", "model", *heads, caption="95 % intervals from the probed rows; training on this machine is not in it")
    for f in forecasts:
        shared = f"{f.shared / f.prompt.mean:.0%}" if f.prompt.mean else "–"
        numbers = (
            _formatted(f.prompt, ",.0f"),
            shared,
            _formatted(f.completion, ",.0f"),
            _formatted(f.cost, ",.2f"),
            _formatted(f.hours, ".2f"),
        )
        told.add_row(f.stage, f.model, f"{f.rows:,}", _formatted(f.calls, ",.0f"), *numbers)
    cost, hours = sum(f.cost.mean for f in forecasts), sum(f.hours.mean for f in forecasts)
    told.add_section()
    told.add_row("all", "", "", f"{sum(f.calls.mean for f in forecasts):,.0f}", "", "", "", f"{cost:,.2f}", f"{hours:.2f}")
    return told


def over(forecasts: Sequence[Forecast], budget: Budget) -> list[str]:
    """The limits that the forecast does not keep, each with what it comes to."""
    tokens = sum(f.prompt.mean + f.completion.mean for f in forecasts)
    totals = (
        ("--max-cost", sum(f.cost.mean for f in forecasts), budget.max_cost),
        ("--max-tokens", tokens, budget.max_tokens),
        ("--max-hours", sum(f.hours.mean for f in forecasts), budget.max_hours),
    )
    return [
        f"{name} {limit:g} is less than the {found:,.4g} to expect"
        for name, found, limit in totals
        if limit is not None and found > limit
    ]


def _formatted(it: Interval, form: str) -> str:
    low, high = format(it.low, form), "?" if math.isinf(it.high) else format(it.high, form)
    return format(it.mean, form) if it.low == it.high else f"{format(it.mean, form)} [{low}, {high}]"

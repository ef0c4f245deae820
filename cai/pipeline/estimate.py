"""Forecast of a run's cost from a few rows of each stage that calls a model: calls, tokens, money,
hours, with intervals.

Rows from all over a stage's input go through the stage's own step, and an endpoint's answers land
in the run's request log. Stages that call a model which does not exist yet call the run's own
instead: those answers are of no use to the run.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from scipy.stats import t as student

from cai.async_map import gather
from cai.lm.budget import Budget, Prices
from cai.lm.engines import is_endpoint
from cai.pipeline.context import RunContext
from cai.pipeline.planned_stages import PlannedStage, Probes, planned_stages
from cai.pipeline.probe import ROW, Used
from cai.simulation.workload import Workload, workload


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
    work: Workload | None = None
    """What `cai plan --machine` simulates; None: the stage does not grow with the prompts."""


def total(values: Sequence[float], rows: int) -> Interval:
    """`rows` times the mean, with 95 % limits by Student's t; of one value the limits are unknown,
    and infinite above.
    """
    mean = rows * fmean(values)
    if len(values) >= rows:
        return Interval(mean, mean, mean)
    if len(values) < 2:
        return Interval(mean, 0.0, math.inf)
    spare = math.sqrt(1 - len(values) / rows)  # the probed rows are known
    half = (
        rows
        * float(student.ppf(0.975, len(values) - 1))
        * stdev(values)
        / math.sqrt(len(values))
        * spare
    )
    return Interval(mean, max(0.0, mean - half), mean + half)


def forecast(
    stage: str, model: str, used: Sequence[Used], rows: int, prices: Prices, pace: float
) -> Forecast:
    """Add one stage up. `pace`: seconds that pass for each second of waiting, with as many calls in
    flight as there will be.
    """
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


def _announce(ctx: RunContext, stage: PlannedStage, count: int) -> None:
    """Say, before they leave, which calls to an endpoint are made."""
    if not is_endpoint(stage.model):
        return
    reuse = "the run reuses the answers" if stage.is_reused else "the run cannot use the answers"
    ctx.notify(f"plan: {count} rows of {stage.name} are tried with {stage.model}: {reuse}")


def plan(ctx: RunContext, count: int) -> list[Forecast]:
    """Probe `count` rows of every stage that calls a model, all of them in flight together.

    Raises:
        BackendError, BudgetError: as the stages themselves would.
    """
    probes = Probes(ctx)

    async def work() -> list[Forecast]:
        forecasts = []
        try:
            for stage in planned_stages(ctx, probes):
                chosen = evenly_spaced(stage.probes, count)
                if chosen:
                    _announce(ctx, stage, len(chosen))
                    forecasts.append(await _probe(ctx, stage, chosen))
        finally:
            await probes.aclose()
        return forecasts

    return asyncio.run(work())


async def _probe(ctx: RunContext, stage: PlannedStage, rows: Sequence[Any]) -> Forecast:
    progress = ctx.progress(f"plan {stage.name}")
    progress(0, len(rows))
    started = time.perf_counter()
    used = await gather([_tracked(stage.step, row) for row in rows])
    passed, waited = time.perf_counter() - started, sum(u.seconds for u in used)
    progress(len(rows), len(rows))
    # a model in this process is busy all the time; an endpoint is waited for, with many calls in
    # flight
    pace = passed / waited if waited else 0.0
    if is_endpoint(stage.model):
        pace = 1 / ctx.run.http.connections
    result = forecast(stage.name, stage.model, used, stage.rows, ctx.run.prices, pace)
    if not stage.prompts:
        return result
    rows_per_prompt = stage.rows / stage.prompts
    return replace(result, work=workload(stage.name, [u.tried for u in used], rows_per_prompt))


async def _tracked(step: Callable[[Any], Awaitable[Any]], row: Any) -> Used:
    """Use of one row. A task has a context of its own, and so have the calls that it makes."""
    used = Used()
    ROW.set(used)
    await step(row)
    return used


def evenly_spaced(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` rows at equal distances: files often hold one kind of prompt after another."""
    if count >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


def forecast_table(forecasts: Sequence[Forecast]) -> Table:
    """A row per stage, and the sums of money and hours."""
    heads = (
        "rows",
        "calls",
        "prompt tokens",
        "in a shared prefix",
        "completion tokens",
        "cost",
        "hours",
    )
    caption = "95 % intervals from the probed rows; training on this machine is not in it"
    rendered = Table("stage", "model", *heads, caption=caption)
    for f in forecasts:
        rendered.add_row(
            f.stage,
            f.model,
            f"{f.rows:,}",
            _formatted(f.calls, ",.0f"),
            _formatted(f.prompt, ",.0f"),
            f"{f.shared / f.prompt.mean:.0%}" if f.prompt.mean else "–",
            _formatted(f.completion, ",.0f"),
            _formatted(f.cost, ",.2f"),
            _formatted(f.hours, ".2f"),
        )
    calls, cost, hours = (
        sum(getattr(f, name).mean for f in forecasts) for name in ("calls", "cost", "hours")
    )
    rendered.add_section()
    rendered.add_row("all", "", "", f"{calls:,.0f}", "", "", "", f"{cost:,.2f}", f"{hours:.2f}")
    return rendered


def exceeded_limits(forecasts: Sequence[Forecast], budget: Budget) -> list[str]:
    """The limits that the forecast exceeds, each with the expected amount."""
    tokens = sum(f.prompt.mean + f.completion.mean for f in forecasts)
    totals = (
        ("--max-cost", sum(f.cost.mean for f in forecasts), budget.max_cost),
        ("--max-tokens", tokens, budget.max_tokens),
        ("--max-hours", sum(f.hours.mean for f in forecasts), budget.max_hours),
    )
    return [
        f"{name} {limit:g} is less than the {expected:,.4g} to expect"
        for name, expected, limit in totals
        if limit is not None and expected > limit
    ]


def _formatted(interval: Interval, form: str) -> str:
    if interval.low == interval.high:
        return format(interval.mean, form)
    high = "?" if math.isinf(interval.high) else format(interval.high, form)
    return f"{format(interval.mean, form)} [{format(interval.low, form)}, {high}]"

"""Hours, money and rows an hour of stages on a machine, for a number of prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cai.simulation.engine import device_time, num_slots
from cai.simulation.machines import Engine, Machine
from cai.simulation.queue import queue_cost, queue_hours
from cai.simulation.windows import windows_time
from cai.simulation.workload import Workload


@dataclass(frozen=True)
class StageForecast:
    """One stage on one machine, simulated."""

    stage: str
    rows: int
    calls: float
    prompt_tokens: float
    cached: float | None
    """Share of the prompt tokens that a prefix cache had; None: the vendor does not say."""
    generated_tokens: float
    hours: float
    cost: float | None
    """None: the machine has no price."""
    limit: str
    """What decides the hours."""
    spread: float | None
    """Half of the 95 % interval of a row's tokens, as a share of their mean: hours and cost are no
    surer. None: one row was tried."""

    @property
    def rows_per_hour(self) -> float:
        return self.rows / self.hours


@dataclass(frozen=True)
class MachineForecast:
    """Stages one after another, with the machine's start."""

    machine: Machine
    prompts: int
    stages: tuple[StageForecast, ...]

    @property
    def hours(self) -> float:
        return self.machine.startup_seconds.value / 3600 + sum(s.hours for s in self.stages)

    @property
    def cost(self) -> float | None:
        start = _device_cost(self.machine, self.machine.startup_seconds.value / 3600)
        costs = [stage.cost for stage in self.stages]
        if self.machine.queue is not None:
            start = 0.0
        if start is None or None in costs:
            return None
        return start + sum(cost for cost in costs if cost is not None)


def forecast_machine(
    machine: Machine, works: Sequence[Workload], prompts: int, seed: int
) -> MachineForecast:
    """All stages for `prompts` prompts."""
    stages = tuple(forecast_stage(machine, work, prompts, seed) for work in works)
    return MachineForecast(machine, prompts, stages)


def forecast_stage(machine: Machine, work: Workload, prompts: int, seed: int) -> StageForecast:
    """One stage for `prompts` prompts."""
    rows = max(1, math.ceil(prompts * work.rows_per_prompt))
    prompt, generated = rows * work.prompt_per_row, rows * work.generated_per_row
    cached: float | None = None
    if machine.queue is not None:
        hours, limit = queue_hours(machine.queue, work, rows, seed), "turnaround"
        cost: float | None = queue_cost(machine.queue, prompt, generated)
    else:
        assert machine.engine is not None  # noqa: S101
        seconds, computed, limit = _engine_seconds(machine, machine.engine, work, rows, seed)
        cached, hours = max(0.0, 1 - computed / max(1.0, prompt)), seconds / 3600
        cost = _device_cost(machine, hours)
    return StageForecast(
        stage=work.stage,
        rows=rows,
        calls=rows * work.calls_per_row,
        prompt_tokens=prompt,
        cached=cached,
        generated_tokens=generated,
        hours=hours,
        cost=cost,
        limit=limit,
        spread=work.spread,
    )


def _engine_seconds(
    machine: Machine, engine: Engine, work: Workload, rows: int, seed: int
) -> tuple[float, float, str]:
    """(seconds, computed prompt tokens of all devices, what decides the seconds)."""
    share = math.ceil(rows / machine.devices)
    if engine.batching == "windows":
        seconds, computed = windows_time(engine, work, share, seed)
        limit = "batches"
    else:
        time = device_time(engine, work, share, seed)
        seconds, computed, limit = time.seconds, time.computed, time.limit
    if machine.requests_per_second is not None:
        least = rows * work.calls_per_row / machine.requests_per_second.value
        if least > seconds:
            seconds, limit = least, "requests a second"
    return seconds, computed * rows / share, limit


def _device_cost(machine: Machine, hours: float) -> float | None:
    if machine.price_per_hour is None:
        return None
    return machine.devices * machine.price_per_hour.value * hours


def assumptions(machine: Machine, works: Sequence[Workload]) -> Iterator[str]:
    """What the simulation takes for granted, and the source of every number of the machine."""
    yield f"{machine.name}: {machine.title}"
    if machine.engine is not None:
        yield from _engine_assumptions(machine, machine.engine, works)
    else:
        yield (
            "every wave waits for the slowest file of the wave before, and its hours are the mean "
            "of many draws; a file's turnaround does not depend on its size; every prompt token "
            "is paid for, cached or not"
        )
    yield from machine.sources()


def _engine_assumptions(
    machine: Machine, engine: Engine, works: Sequence[Workload]
) -> Iterator[str]:
    if engine.batching == "continuous":
        slots = ", ".join(f"{work.stage} {num_slots(engine, work)}" for work in works)
        yield (
            f"replies at once on each of {machine.devices} devices: {slots}; clients send that "
            "many (http.connections); devices get equal shares, and a row stays on its device"
        )
        yield "reading prompts shares the steps of decoding: a device takes the longer of both"
    else:
        yield (
            f"{int(engine.max_rows.value)} rows start together and wait for each other; prompts "
            "are read before their replies are generated"
        )
    if engine.cache_tokens is None:
        yield "no prefix is kept: every prompt is read in full"
    else:
        yield (
            "prefixes that rows share are read once, and again when the cache had no room for "
            "them; so is what earlier calls of a row had"
            if engine.batching == "continuous"
            else "prefixes that the rows of a batch share are read once"
        )

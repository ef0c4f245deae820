"""Machines and workloads of round numbers, for tests of the simulation."""

from __future__ import annotations

from typing import Any

from cai.simulation.machines import Machine
from cai.simulation.workload import Call, Row, Workload


def figure(value: float) -> dict[str, Any]:
    return {"value": value, "basis": "assumed", "source": "a test"}


def point(rows: int, step: float) -> dict[str, Any]:
    """Generation with `rows` rows, whose step takes `step` seconds."""
    return {"rows": rows, "tokens_per_second": rows / step, "basis": "assumed", "source": "a test"}


def engine_machine(devices: int = 1, **settings: Any) -> Machine:
    """Reads 1,000 tokens a second. A step takes 0.1 s, and 0.01 s for each row after the first;
    two rows at once; no start, no cache; one coin a device hour.
    """
    engine = {
        "batching": "continuous",
        "prefill_tokens_per_second": figure(1000),
        "decode": [point(1, 0.1), point(101, 1.1)],
        "max_rows": figure(2),
        **settings,
    }
    return Machine.model_validate(
        {
            "name": "toy",
            "title": "a toy",
            "devices": devices,
            "startup_seconds": figure(0),
            "price_per_hour": figure(1),
            "engine": engine,
        }
    )


def queue_machine(**settings: Any) -> Machine:
    """Files of ten requests; prices of 1 and 2 a million, halved."""
    queue = {
        "requests_per_file": figure(10),
        "median_hours": figure(1),
        "slow_hours": figure(4),
        "most_hours": figure(24),
        "tokens_in_flight": figure(1e9),
        "prompt_price": figure(1),
        "completion_price": figure(2),
        "discount": figure(0.5),
        **settings,
    }
    return Machine.model_validate({"name": "queue", "title": "a queue", "queue": queue})


def work(*rows: Row, rows_per_prompt: float = 1.0) -> Workload:
    return Workload("revise", rows, rows_per_prompt)


def one_call(prompt: float = 100, generated: int = 10) -> Workload:
    """Each row is one call."""
    return work((Call(prompt, generated),))

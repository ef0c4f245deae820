"""One pass over a stage of a run for a batch queue."""

from __future__ import annotations

from collections.abc import Sequence

from cai.errors import UsageError
from cai.lm.batch import Batch, WaveError
from cai.lm.budget import Prices
from cai.pipeline.config import Run
from cai.pipeline.context import RunContext
from cai.pipeline.estimate import Forecast
from cai.pipeline.runner import run_stages

BATCH_STAGES = ("revise", "label")
"""Stages that ask the run's model or its judge, and no model that the run trains."""


def run_batch(ctx: RunContext, batch: Batch) -> bool:
    """One pass over a stage.

    Returns:
        Whether the stage is finished. If not, `batch` has the open requests.

    Raises:
        UsageError: no such stage, or it asks a model that is no endpoint.
    """
    endpoint_of(ctx.run, batch.stage)
    ctx.batch = batch
    try:
        run_stages(ctx, [batch.stage], lambda stage, seconds: None)
    except WaveError:
        return False
    return True


def endpoint_of(run: Run, stage: str) -> str:
    """The endpoint that a stage asks.

    Raises:
        UsageError: no such stage, or it asks a model that is no endpoint.
    """
    if stage not in BATCH_STAGES:
        raise UsageError(
            f"no batches for the stage {stage}: they are for {', '.join(BATCH_STAGES)}"
        )
    model = run.judge or run.model if stage == "label" else run.model
    if not model.startswith(("http:", "https:")):
        raise UsageError(
            f"{stage} asks {model}, which runs here: batch queues and Ray need an endpoint, "
            "http://HOST:PORT/v1#MODEL"
        )
    return model


def batch_cost_line(forecasts: Sequence[Forecast], prices: Prices) -> str | None:
    """What a batch queue would charge for the stages that it can do; None: nothing."""
    batched = [f for f in forecasts if f.stage in BATCH_STAGES and f.model.startswith("http")]
    mean, low, high = (
        prices.batch * sum(getattr(f.cost, name) for f in batched)
        for name in ("mean", "low", "high")
    )
    if not mean:
        return None
    names = " and ".join(f.stage for f in batched)
    return (
        f"through a batch queue (cai batch), {names} cost {mean:,.2f} [{low:,.2f}, {high:,.2f}] "
        f"at {prices.batch:.0%} of the price; the queue decides the hours"
    )

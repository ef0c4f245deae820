"""The stages of a run in order, in one process or in several that torchrun starts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from cai import store
from cai.errors import JobError
from cai.pipeline.context import RunContext
from cai.pipeline.saved_settings import SettingsSaver
from cai.pipeline.stages import RUN_STAGE
from cai.train.tracking import require_tracker

DISTRIBUTED_STAGES = ("sft", "reward", "ppo")
"""Those that every process of a torchrun runs."""


@dataclass(frozen=True)
class _Process:
    """This process's part in a run."""

    first: bool
    """The first process writes, and runs the stages that are not distributed."""
    wait: Callable[[], None]
    """Until all processes are here."""
    isolated: Callable[[], AbstractContextManager[None]]
    """Inside, libraries see a single process."""


def run_stages(
    ctx: RunContext,
    names: Sequence[str],
    on_stage: Callable[[str, float], None],
    accept: Sequence[str] = (),
) -> None:
    """Run stages in order under the folder's lock.

    Started by torchrun, all processes train together, and the first one runs the other stages while
    the rest wait.

    Args:
        on_stage: called with (stage, seconds) after each, by the first process.
        accept: artefacts to take as they are now, although a stage left them otherwise.

    Raises:
        JobError: another process failed; that one says why.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _run_stages(ctx, names, on_stage, _Process(True, lambda: None, nullcontext), accept)
        return
    from cai.train.distributed import (
        barrier,
        is_peer_failure,
        process_group,
        rank,
        single_process_env,
    )

    with process_group():
        try:
            process = _Process(rank() == 0, barrier, single_process_env)
            _run_stages(ctx, names, on_stage, process, accept)
        except Exception as error:
            if not is_peer_failure(error):
                raise
            raise JobError("another process failed, and says why") from error


def _run_stages(
    ctx: RunContext,
    names: Sequence[str],
    on_stage: Callable[[str, float], None],
    process: _Process,
    accept: Sequence[str],
) -> None:
    if "ppo" in names:
        require_tracker(ctx.run.report_to)  # not only after hours
    with store.locked(ctx.resolved.folder) if process.first else nullcontext():
        saver = None
        if process.first:
            for name in accept:
                ctx.accept_content(name)
            saver = SettingsSaver(ctx.resolved)
            ctx.on_accept = saver.accept
        for name in names:
            started = time.monotonic()
            if name in DISTRIBUTED_STAGES:
                RUN_STAGE[name](ctx)
            elif process.first:
                with process.isolated():
                    RUN_STAGE[name](ctx)
            ctx.close_models()  # models of one stage must not weigh on the next
            process.wait()
            if process.first:
                on_stage(name, time.monotonic() - started)
        if saver is not None:
            saver.warn(ctx.notify)

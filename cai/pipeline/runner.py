"""Walking the stages of a run, in one process or in several."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from cai import store
from cai.errors import JobError
from cai.pipeline.config import save_run
from cai.pipeline.context import RunContext
from cai.pipeline.stages import RUN_STAGE
from cai.train.tracking import require_tracker


def run_stages(ctx: RunContext, names: Sequence[str], tell: Callable[[str, float], None]) -> None:
    """Run stages in order under the folder's lock; `tell(stage, seconds)` after each.

    Started by torchrun, all processes walk PPO together, and the first one walks the other stages while the rest wait.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _run_stages(ctx, names, tell, first=True, wait=lambda: None, apart=nullcontext)
        return
    from cai.train.distributed import barrier, is_peer_failure, process_group, rank, single_process_env

    with process_group():
        try:
            _run_stages(ctx, names, tell, first=rank() == 0, wait=barrier, apart=single_process_env)
        except RuntimeError as error:
            if not is_peer_failure(error):
                raise
            raise JobError("another process failed, and says why") from error


def _run_stages(
    ctx: RunContext,
    names: Sequence[str],
    tell: Callable[[str, float], None],
    *,
    first: bool,
    wait: Callable[[], None],
    apart: Callable[[], AbstractContextManager[None]],
) -> None:
    if "ppo" in names:
        require_tracker(ctx.loaded.run.track)  # not only after hours
    with store.locked(ctx.loaded.folder) if first else nullcontext():
        if first:
            save_run(ctx.loaded)
        for name in names:
            started = time.monotonic()
            if name == "ppo":
                RUN_STAGE[name](ctx)
            elif first:
                with apart():
                    RUN_STAGE[name](ctx)
            ctx.close_models()  # a stage opens what it needs: models of one stage don't weigh on the next
            wait()
            if first:
                tell(name, time.monotonic() - started)

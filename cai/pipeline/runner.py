"""Walking the stages of a run, in one process or in several."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from cai import store
from cai.errors import JobError
from cai.pipeline.config import save_run
from cai.pipeline.context import Workshop
from cai.pipeline.stages import STAGES
from cai.train.tracking import installed


def walk(shop: Workshop, names: Sequence[str], tell: Callable[[str, float], None]) -> None:
    """Run stages in order under the folder's lock; `tell(stage, seconds)` after each.

    Started by torchrun, all processes walk PPO together, and the first one walks the other stages while the rest wait.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _walk(shop, names, tell, first=True, wait=lambda: None, apart=nullcontext)
        return
    from cai.train.distributed import alone, lost, rank, together, wait

    with together():
        try:
            _walk(shop, names, tell, first=rank() == 0, wait=wait, apart=alone)
        except RuntimeError as error:
            if not lost(error):
                raise
            raise JobError("another process failed, and says why") from error


def _walk(
    shop: Workshop,
    names: Sequence[str],
    tell: Callable[[str, float], None],
    *,
    first: bool,
    wait: Callable[[], None],
    apart: Callable[[], AbstractContextManager[None]],
) -> None:
    if "ppo" in names:
        installed(shop.loaded.run.track)  # not only after hours
    with store.locked(shop.loaded.folder) if first else nullcontext():
        if first:
            save_run(shop.loaded)
        for name in names:
            started = time.monotonic()
            if name == "ppo":
                STAGES[name](shop)
            elif first:
                with apart():
                    STAGES[name](shop)
            shop.close_models()  # a stage opens what it needs: models of one stage don't weigh on the next
            wait()
            if first:
                tell(name, time.monotonic() - started)

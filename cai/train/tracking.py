"""Experiment trackers for PPO's metrics: TensorBoard and Trackio.

`metrics.jsonl` is always written, with or without a tracker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from cai.errors import UsageError

Tracker = Literal["tensorboard", "trackio"]
Track = Callable[[int, Mapping[str, Any]], None]
"""(update, its metrics)"""


def no_tracker(step: int, metrics: Mapping[str, Any]) -> None:
    """A tracker that does nothing."""


def require_tracker(name: Tracker | None) -> None:
    """Check that the package of tracker `name` can be imported.

    Raises:
        UsageError: it is not installed.
    """
    if name is not None and find_spec(name) is None:
        raise UsageError(f"track: {name} is not installed: pip install {name}, or leave track out")


def tracker(name: Tracker | None, folder: Path, run: str) -> Track:
    """The function that sends each update's metrics to tracker `name`.

    Args:
        folder: for TensorBoard's event files.
        run: name of the run; Trackio's project is `cai`.

    Raises:
        UsageError: the package is not installed.
    """
    require_tracker(name)
    if name is None:
        return no_tracker
    return stop_after_failure(
        name, _tensorboard(folder) if name == "tensorboard" else _trackio(run)
    )


def stop_after_failure(name: str, track: Track) -> Track:
    """`track` until it first raises; then one line on standard error, and nothing from there on.

    A tracker's failure must not end training.
    """
    failed = False

    def track_until_failure(step: int, metrics: Mapping[str, Any]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            track(step, metrics)
        except Exception as error:
            failed = True
            print(
                f"track: {name} failed at update {step} and is left out from here on: {error}",
                file=sys.stderr,
            )

    return track_until_failure


def _tensorboard(folder: Path) -> Track:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = None

    def track(step: int, metrics: Mapping[str, Any]) -> None:
        nonlocal writer
        if writer is None:
            # A killed run may have logged this update and later ones: purge them.
            writer = SummaryWriter(str(folder), purge_step=step)
        for key, value in plottable_metrics(metrics).items():
            writer.add_scalar(f"ppo/{key}", value, step)
        writer.flush()

    return track


def _trackio(run: str) -> Track:
    import trackio

    trackio.init(project="cai", name=run, resume="allow")
    return lambda step, metrics: trackio.log(plottable_metrics(metrics), step=step)


def plottable_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that can be plotted: all known numbers but `step`."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if key != "update" and isinstance(value, int | float)
    }

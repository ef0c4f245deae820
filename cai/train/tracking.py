"""PPO's numbers, update by update, for those who look at curves elsewhere. `metrics.jsonl` is always written, whoever looks."""

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
    """Tells nobody."""


def require_tracker(name: Tracker | None) -> None:
    """Nothing, where what `name` needs can be imported.

    Raises:
        UsageError: it cannot.
    """
    if name is not None and find_spec(name) is None:
        raise UsageError(f"track: {name} is not installed: pip install {name}, or leave track out")


def tracker(name: Tracker | None, folder: Path, run: str) -> Track:
    """Where the numbers of each update go besides `metrics.jsonl`.

    Args:
        folder: for TensorBoard's event files.
        run: name of the run; Trackio's project is `cai`.

    Raises:
        UsageError: the package is not installed.
    """
    require_tracker(name)
    if name is None:
        return no_tracker
    return forgiving(name, _tensorboard(folder) if name == "tensorboard" else _trackio(run))


def forgiving(name: str, tell: Track) -> Track:
    """`tell`, until it fails: that is said once, and training goes on without."""
    failed: list[Exception] = []

    def told(step: int, metrics: Mapping[str, Any]) -> None:
        if failed:
            return
        try:
            tell(step, metrics)
        except Exception as error:
            failed.append(error)
            print(
                f"track: {name} failed at update {step} and is left out from here on: {error}",
                file=sys.stderr,
            )

    return told


def _tensorboard(folder: Path) -> Track:
    from torch.utils.tensorboard import SummaryWriter

    writers: list[Any] = []

    def tell(step: int, metrics: Mapping[str, Any]) -> None:
        if not writers:  # from here on: a killed run may have told of this update and later ones
            writers.append(SummaryWriter(str(folder), purge_step=step))
        for key, value in numbers(metrics).items():
            writers[0].add_scalar(f"ppo/{key}", value, step)
        writers[0].flush()

    return tell


def _trackio(run: str) -> Track:
    import trackio

    trackio.init(project="cai", name=run, resume="allow")
    return lambda step, metrics: trackio.log(numbers(metrics), step=step)


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What can be drawn: not the update's own number, and nothing that nobody knows."""
    return {
        key: float(value)
        for key, value in metrics.items()
        if key != "step" and isinstance(value, int | float)
    }

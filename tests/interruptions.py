"""Interruptions and progress callbacks for tests of long jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Killed(BaseException):
    """A simulated signal: nothing in the package catches it."""


def quiet(done: int, total: int) -> None:
    """Progress that is not shown."""


def no_progress(stage: str) -> Callable[[int, int], None]:
    """The progress callback of a stage."""
    return quiet


def killed_at(call: int, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, which from its `call`-th call on (the first is 0) raises `Killed`."""
    calls = 0

    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        nonlocal calls
        calls += 1
        if calls > call:
            raise Killed
        return function(*args, **kwargs)

    return wrapped

"""Every error this package raises on purpose, and the one place where foreign errors are blamed.

CaiError                 one line for the user: what, where, what to do
├── UsageError           the command or its input is wrong (exit code 2)
│   ├── ConfigError      a run's YAML or a constitution is wrong (names file:line and key)
│   └── StoreError       a file is missing, torn, foreign or locked (names file:line or key)
└── JobError             the input was fine, the work failed (exit code 1)
    ├── BackendError     a model call failed (names the back end and its status)
    │   ├── TransientError   worth retrying; nothing else is
    │   ├── UnansweredError  this one call has no answer: its row becomes null with the reason, the others go on
    │   └── BudgetError      the run's limit on tokens, money or hours is reached; run again to go on
    └── TrainError       training cannot go on (names the number that broke)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class CaiError(Exception):
    """Base of every error raised on purpose. `str(error)` is one line for the user."""


class UsageError(CaiError): ...


class ConfigError(UsageError): ...


class StoreError(UsageError): ...


class JobError(CaiError): ...


class BackendError(JobError): ...


class TransientError(BackendError):
    wait: float | None = None
    """Seconds that the server asked for before the next try."""


class UnansweredError(BackendError): ...


class BudgetError(BackendError): ...


class TrainError(JobError): ...


@contextlib.contextmanager
def blame(kind: type[CaiError], what: str) -> Iterator[None]:
    """Attribute any foreign exception that crosses this line to `kind`; our own pass through."""
    try:
        yield
    except CaiError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise kind(f"{what}: {type(error).__name__}: {first}") from error

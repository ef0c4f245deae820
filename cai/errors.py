"""The errors that this package raises on purpose, and the conversion of foreign exceptions.

CaiError                 one line for the user: what, where, what to do
├── UsageError           the command or its input is wrong (exit code 2)
│   ├── ConfigError      a run's YAML or a constitution is wrong (names file:line and key)
│   └── StoreError       a file is missing, torn, foreign or locked (names file:line or key)
└── JobError             the input was fine, the work failed (exit code 1)
    ├── BackendError     a model call failed (names the back end and its status)
    │   ├── TransientError   the only error that is retried
    │   ├── UnansweredError  one call has no answer: its row becomes null, with the reason
    │   └── BudgetError      the limit on tokens, money or hours is reached; run again to resume
    └── TrainError       training cannot continue (names the metric that is invalid)
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
    """Seconds before the next try, if the server named them."""


class UnansweredError(BackendError): ...


class BudgetError(BackendError): ...


class TrainError(JobError): ...


@contextlib.contextmanager
def blame(kind: type[CaiError], what: str) -> Iterator[None]:
    """Raise any foreign exception from the block as a `kind`, in one line that begins with `what`.

    Errors of this package pass unchanged.
    """
    try:
        yield
    except CaiError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        first_line = lines[0] if lines else ""
        raise kind(f"{what}: {type(error).__name__}: {first_line}") from error

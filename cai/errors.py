"""The errors that this package raises on purpose, and the conversion of foreign exceptions.

CaiError                 one line for the user: what, where, what to do
├── UsageError           the command or its input is wrong (exit code 2)
│   ├── ConfigError      a run's YAML or a constitution is wrong (names file:line and key)
│   └── StoreError       a file is missing, torn, foreign or locked (names file:line or key)
└── JobError             the input was fine, the work failed (exit code 1)
    ├── BackendError     a model call failed (names the back end and its status)
    │   ├── TransientError   the only error that is retried
    │   │   └── MalformedAnswerError   (cai.lm.body) an answer that breaks the protocol
    │   ├── UnansweredError  one call has no answer: its row becomes null, with the reason
    │   │   └── RefusedAnswerError     (cai.lm.base) a paid answer that cannot be used
    │   └── BudgetError      the limit on tokens, money or hours is reached; run again to resume
    └── TrainError       training cannot continue (names the metric that is invalid)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

PASSING = "no answer for now"
"""Beginning of a row's reason where the endpoint failed in a way that passes by itself."""
_PASSING_REASON = re.compile(rf"{PASSING}: |no answer: \S+: status (?:408|409|425|429|5\d\d)\b")


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


class UnansweredError(BackendError):
    @property
    def reason(self) -> str:
        """The reason that the row without an answer holds; see `is_passing`."""
        passing = isinstance(self.__cause__, TransientError)
        return f"{PASSING if passing else 'no answer'}: {self}"


class BudgetError(BackendError): ...


class TrainError(JobError): ...


def is_passing(reason: str | None) -> bool:
    """Whether a null row's reason is a failure that passes, so that it is worth asking again."""
    return reason is not None and _PASSING_REASON.match(reason) is not None


@contextlib.contextmanager
def blame(kind: type[CaiError], what: str) -> Iterator[None]:
    """Raise any foreign exception from the block as a `kind`, in one line that begins with `what`.

    Errors of this package pass unchanged.
    """
    try:
        yield
    except CaiError:
        raise
    except UnicodeDecodeError as error:
        raise kind(f"{what}: not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        first_line = lines[0] if lines else ""
        raise kind(f"{what}: {type(error).__name__}: {first_line}") from error

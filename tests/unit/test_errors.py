"""The error tree and the conversion of foreign exceptions."""

from __future__ import annotations

import asyncio

import pytest

from cai.errors import (
    BackendError,
    CaiError,
    ConfigError,
    JobError,
    StoreError,
    TrainError,
    TransientError,
    UsageError,
    blame,
)


def test_tree() -> None:
    """Exit codes depend on it: 2 for a wrong command or input, 1 for work that failed."""
    assert all(issubclass(kind, UsageError) for kind in (ConfigError, StoreError))
    assert all(issubclass(kind, JobError) for kind in (BackendError, TransientError, TrainError))
    assert issubclass(TransientError, BackendError)
    assert not issubclass(UsageError, JobError)
    assert not issubclass(JobError, UsageError)
    assert UsageError.__base__ is JobError.__base__ is CaiError


def test_text_of_another_encoding_is_said_in_plain_words() -> None:
    with (
        pytest.raises(StoreError, match=r"^a\.csv: not UTF-8 text \(byte 1\): save it as UTF-8$"),
        blame(StoreError, "a.csv"),
    ):
        b"a\xff".decode()


def test_blame_says_what_and_why_in_one_line() -> None:
    cause = ValueError("  first line\nsecond line")
    with pytest.raises(BackendError) as caught, blame(BackendError, "local model m"):
        raise cause
    assert str(caught.value) == "local model m: ValueError: first line"
    assert caught.value.__cause__ is cause
    with pytest.raises(StoreError, match=r"^x: KeyError: $"), blame(StoreError, "x"):
        raise KeyError


@pytest.mark.parametrize(
    "error",
    [
        TransientError("busy"),
        ConfigError("a.yaml:3: key"),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
    ],
)
def test_our_own_errors_and_interruptions_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, blame(BackendError, "x"):
        raise error
    assert caught.value is error

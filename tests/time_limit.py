"""A limit on the processor time of a block."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


@contextlib.contextmanager
def within(*, seconds: float) -> Iterator[None]:
    """Fail if the block takes more processor time; what it guards against takes far more."""
    start = time.process_time()
    yield
    taken = time.process_time() - start
    assert taken < seconds, f"took {taken:.1f} s of {seconds} s"

"""Out of memory: recognised, and answered with smaller batches.

A row's draws follow from its seed and a step's gradients are sums over its rows, so the results
are those of the larger batch, up to rounding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from cai.errors import BackendError, JobError
from cai.modeling import memory

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
MESSAGES = (
    "can't allocate memory",  # torch's allocator for the CPU
    "not enough memory",  # the same on Windows and macOS
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What torch says where it raises a plain RuntimeError."""
ADVICE = "take shorter texts, a smaller model, or bfloat16 (CAI_PRECISION=bfloat16)"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or in main memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


class BatchLimit:
    """The largest batch that memory has room for: unknown until memory runs out, then half of the
    batch that was too large.

    Args:
        what: begins the line to the user and the error.
        error: raised where a single row does not fit.
    """

    def __init__(self, what: str, error: type[JobError] = BackendError) -> None:
        self.what, self.error = what, error
        self.tokens: int | None = None
        """Rows times the longest of them; None: no limit is known."""

    def run(
        self,
        items: Sequence[ItemT],
        length: Callable[[ItemT], int],
        work: Callable[[Sequence[ItemT]], Sequence[ResultT]],
    ) -> list[ResultT]:
        """`work` of all items in order, in as many batches as it takes.

        Args:
            length: tokens of an item.
            work: a batch of items -> one result for each. What it had done is lost where memory
                runs out, and it is called again.

        Raises:
            JobError: an item does not fit alone.
        """
        results: list[ResultT] = []
        while len(results) < len(items):
            batch = self._first(items[len(results) :], length)
            done = self._try(work, batch)
            if done is None:
                self._shrink(len(batch), len(batch) * max(map(length, batch)))
            else:
                results += done
        return results

    def _first(self, items: Sequence[ItemT], length: Callable[[ItemT], int]) -> Sequence[ItemT]:
        """The items that come first, as many as the limit allows; at least one."""
        if self.tokens is None:
            return items
        width = 0
        for count, item in enumerate(items):
            width = max(width, length(item))
            if count and (count + 1) * width > self.tokens:
                return items[:count]
        return items

    @staticmethod
    def _try(
        work: Callable[[Sequence[ItemT]], Sequence[ResultT]], batch: Sequence[ItemT]
    ) -> Sequence[ResultT] | None:
        """None: memory ran out."""
        try:
            return work(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # only here, where the error with its frames and their tensors is gone
        memory.release_memory()
        return None

    def _shrink(self, rows: int, tokens: int) -> None:
        if rows == 1:
            raise self.error(
                f"{self.what}: out of memory with a single row of {tokens} tokens: {ADVICE}"
            )
        self.tokens = tokens // 2
        announce(self.what, rows, rows // 2)


def with_smaller_batches(
    what: str, size: int, work: Callable[[int], ResultT], error: type[JobError]
) -> tuple[ResultT, int]:
    """`work(size)`, or of half the size and so on where memory runs out; and the size that fits.

    Args:
        what: begins the line to the user and the error.
        work: starts afresh each time.

    Raises:
        JobError: it does not fit with size 1.
    """
    while True:
        try:
            return work(size), size
        except Exception as failure:
            if not is_out_of_memory(failure):
                raise
        memory.release_memory()
        if size == 1:
            raise error(f"{what}: out of memory with a single row: {ADVICE}")
        announce(what, size, (size + 1) // 2)
        size = (size + 1) // 2


def announce(what: str, rows: int, fewer: int) -> None:
    print(
        f"cai: {what}: out of memory with {rows} rows at once: goes on with {fewer}",
        file=sys.stderr,
        flush=True,
    )

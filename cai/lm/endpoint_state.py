"""What a run has seen of an endpoint so far, and whether that stops it."""

from __future__ import annotations

from cai.errors import BackendError, TransientError
from cai.lm.base import RefusedAnswerError
from cai.lm.body import MalformedAnswerError

FEW_WITHOUT_LOGPROBS = 3
MAX_WITHOUT_LOGPROBS = 8
"""Answers of a judge without log-probabilities, if none had any, that stop the run: the smaller
number if no other call may still show that the judge has some."""
MAX_MALFORMED = 8
"""Calls with malformed answers only that stop a run, if the endpoint has never answered."""


class EndpointState:
    """Answers and failures of one endpoint.

    Args:
        url: for messages.
        most_failures: calls in a row without an answer that stop the run.
        through_proxy: whether a proxy of the environment stands between.
    """

    def __init__(self, url: str, most_failures: int, *, through_proxy: bool) -> None:
        self.url, self.most_failures, self.through_proxy = url, most_failures, through_proxy
        self.stopped: BackendError | None = None
        """The error that stopped the run: no further call leaves."""
        self.is_known = False
        """Whether the endpoint has answered an earlier run."""
        self.answers = 0
        self.successes = 0
        self.consecutive_failures = 0
        self.without_logprobs: int | None = 0
        """Answers without log-probabilities; None: one had some."""

    def succeed(self) -> None:
        self.successes += 1
        self.consecutive_failures = 0

    def refuse_if_stopped(self) -> None:
        if self.stopped is not None:
            raise type(self.stopped)(str(self.stopped))

    def count_without_logprobs(self, problem: str, *, is_last_call: bool) -> None:
        """An answer that a judge's choice cannot be read from; too many of them stop the run."""
        if self.without_logprobs is None:
            return
        self.without_logprobs += 1
        limit = FEW_WITHOUT_LOGPROBS if is_last_call else MAX_WITHOUT_LOGPROBS
        if self.without_logprobs >= limit and self.stopped is None:
            self.stopped = BackendError(
                f"{self.url}: {self.without_logprobs} answers, and none to judge by: "
                f"{problem}; or set `judge` (--model) to another model"
            )

    def fail(self, error: BackendError, *, is_last_call: bool) -> None:
        """Raise what stops the run, if this failure was one too many."""
        self.consecutive_failures += 1
        is_odd = isinstance(error, (MalformedAnswerError, RefusedAnswerError))
        if self.stopped is None:
            if isinstance(error, TransientError) and self._seems_down(error, is_last_call):
                through = " (through the proxy of the environment)" if self.through_proxy else ""
                self.stopped = BackendError(f"{error}{through}; is the server running?")
            elif is_odd and self.is_known:
                pass  # only odd answers may be left of an earlier run: stopping would be for ever
            elif self.consecutive_failures >= self.most_failures:
                self.stopped = BackendError(
                    f"{self.consecutive_failures} calls in a row without an answer; "
                    f"the last one: {error}"
                )
        if self.stopped is not None:
            raise type(self.stopped)(str(self.stopped)) from error

    def _seems_down(self, error: TransientError, is_last_call: bool) -> bool:
        """Whether a call that failed says that there is no such endpoint.

        One malformed answer does not, as long as other calls may be answered.
        """
        if self.successes or not isinstance(error, MalformedAnswerError):
            return not self.successes
        if self.is_known:
            return False
        return is_last_call or self.consecutive_failures >= MAX_MALFORMED

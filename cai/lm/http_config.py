"""Settings of an endpoint: a run's section `http`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cai.lm.base import TOP_LOGPROBS
from cai.records import FrozenModel


class HttpConfig(FrozenModel):
    """Settings of an endpoint."""

    connections: int = Field(32, ge=1)
    """Requests in flight at once."""
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    """Prompt and completion tokens: estimated when a call starts, corrected by its real usage."""
    timeout: float = Field(120.0, gt=0)
    """Seconds without any data from the server; an answer takes twice as long at most."""
    start_timeout: float = Field(900.0, gt=0)
    """Seconds that a server which `cai` starts itself (`vllm:`, `sglang:`) may take to load."""
    attempts: int = Field(12, ge=1)
    """Attempts per call, the first included. The waits between 12 last 90 s to 3 minutes."""
    allow: tuple[Literal["length", "content_filter", "missing"], ...] = ()
    """Finish reasons of replies to accept: cut at the token limit, by a filter, or not named.

    Other such replies are failures.
    """
    prefill: bool = True
    """Whether the server continues a last message of the assistant (vLLM, SGLang, llama.cpp).

    If not, the judge has to answer with the bare option.
    """
    top_logprobs: int = Field(TOP_LOGPROBS, ge=2, le=TOP_LOGPROBS)
    """Alternatives to ask for at a judge's choice, where the server allows fewer than 20."""

    def answer_settings(self) -> dict[str, str]:
        """The settings that decide what a row holds.

        Defaults are left out: artefacts of earlier versions have no record of them.
        """
        defaults = HttpConfig()
        return {
            f"http.{name}": str(getattr(self, name))
            for name in ("prefill", "allow", "top_logprobs")
            if getattr(self, name) != getattr(defaults, name)
        }

"""Options at the end of a model's spec: `smollm2?thinking=on&thinking_tokens=2048`."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from cai.errors import UsageError

THINKING_TOKENS = 1024
REWARD_PREFIX = "reward:"
"""Begins the spec of a reward model where a chat model could stand too, as a judge."""
_OPTIONS = re.compile(r"\?([a-z_]+=[^?&#=]*(?:&[a-z_]+=[^?&#=]*)*)$")
_KNOWN = "options of a model are ?thinking=on, ?thinking=off and &thinking_tokens=NUMBER"


def is_reward_spec(spec: str) -> bool:
    """Whether a spec names a reward model, which scores and does not chat."""
    return spec.startswith(REWARD_PREFIX)


class Thinking(NamedTuple):
    """Whether a model thinks before it replies."""

    mode: Literal["on", "off"] | None = None
    """None: not given. A local model does not think then, an endpoint does as its server says."""
    tokens: int = THINKING_TOKENS
    """Of a thought, at most."""

    @property
    def is_on(self) -> bool:
        return self.mode == "on"

    @property
    def text(self) -> str:
        """The options as a spec has them; empty if none is given."""
        if self.mode is None:
            return ""
        return f"?thinking={self.mode}" + (f"&thinking_tokens={self.tokens}" if self.is_on else "")


def split_spec(spec: str) -> tuple[str, Thinking]:
    """The spec without its options, and what they say.

    Raises:
        UsageError: an option, or its value, is unknown.
    """
    match = _OPTIONS.search(spec)
    if match is None:
        return spec, Thinking()
    mode: Literal["on", "off"] | None = None
    tokens: int | None = None
    for option in match.group(1).split("&"):
        name, _, value = option.partition("=")
        if name == "thinking" and value in ("on", "off"):
            mode = "on" if value == "on" else "off"
        elif name == "thinking_tokens" and re.fullmatch(r"[1-9]\d{0,6}", value):
            tokens = int(value)
        else:
            raise UsageError(f"model {spec!r}: no such option {option!r}; {_KNOWN}")
    if tokens is not None and mode != "on":
        raise UsageError(f"model {spec!r}: thinking_tokens needs thinking=on")
    return spec[: match.start()], Thinking(mode, tokens or THINKING_TOKENS)

"""Two replies to one prompt as the preference model reads them, and which is better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Token rows of two replies to one prompt, and P(first beats second)."""

    prompt: str
    """`cai.data.filters.prompt_key`: all labels of a prompt are on one side of a split."""
    first: list[int]
    second: list[int]
    p_first: float
    source: str = ""
    """Where the label comes from."""

"""Parts of the reward that need neither model nor rubric: length and format penalties."""

from __future__ import annotations

import re

CONTROL_TOKEN = re.compile(r"<\|[\w ]{1,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
ROLE_PREFIX = re.compile(r"^(?:human|user|assistant|system)\s*:", re.IGNORECASE | re.MULTILINE)


def length_excess(reply: str, free_words: int) -> float:
    """Words beyond `free_words`, in hundreds."""
    return max(0, len(reply.split()) - free_words) / 100


def format_faults(reply: str) -> list[str]:
    """Formatting faults of a reply: an unclosed code fence, control tokens, another turn."""
    faults = []
    if reply.count("```") % 2:
        faults.append("unclosed code fence")
    if CONTROL_TOKEN.search(reply):
        faults.append("control tokens")
    if ROLE_PREFIX.search(reply):
        faults.append("another turn")
    return faults

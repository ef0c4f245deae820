"""Terms of the reward that need no model and no rubric: length and form."""

from __future__ import annotations

import re

CONTROL = re.compile(r"<\|[\w ]{1,30}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
TURN = re.compile(r"^(?:human|user|assistant|system)\s*:", re.IGNORECASE | re.MULTILINE)


def surplus(reply: str, free_words: int) -> float:
    """Hundreds of words beyond `free_words`."""
    return max(0, len(reply.split()) - free_words) / 100


def faults(reply: str) -> list[str]:
    """What is wrong with a reply's form: a code fence left open, a chat template's marks, another turn played in the reply."""
    found = []
    if reply.count("```") % 2:
        found.append("open fence")
    if CONTROL.search(reply):
        found.append("control marks")
    if TURN.search(reply):
        found.append("plays another turn")
    return found

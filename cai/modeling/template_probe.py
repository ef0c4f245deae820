"""Small dialogues that a tokenizer's chat template renders, to see what that writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

QUESTION, REPLY, SYSTEM, LATER, THOUGHT = "Xyzzy", "Plugh", "Frotz", "Plover", "Gnusto"
"""Words that no template writes by itself."""

Turns = Sequence[tuple[str, str]]
"""(role, text)"""


class TemplateProbe:
    """Renders a tokenizer's template, with variables."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.variables: dict[str, Any] = {}
        self.takes_parts = False

    def render(self, turns: Turns, *, prompt: bool = False, **variables: Any) -> str | None:
        """The text; None if the template refuses it."""
        messages = [{"role": role, "content": self._content(text)} for role, text in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.source,
                add_generation_prompt=prompt,
                tokenize=False,
                **self.variables,
                **variables,
            )
        except Exception:  # a template is a program of somebody else
            return None
        return text

    def _content(self, text: str) -> Any:
        return as_parts(text) if self.takes_parts else text

    def first_token(self, text: str) -> str | None:
        """The first control token of `text`."""
        added = self.tokenizer.added_tokens_decoder
        for token in self.tokenizer.encode(text, add_special_tokens=False):
            if token in added and not str(added[token]).isspace():
                return str(added[token])
        return None


def as_parts(text: str) -> list[dict[str, str]]:
    """A message's content as multimodal templates take it."""
    return [{"type": "text", "text": text}]

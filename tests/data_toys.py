"""Prompts and filter outcomes for the tests of `cai.data`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cai.data.dedupe import clean
from cai.data.filters import HygieneConfig, PromptFilters
from cai.records import Prompt, chat_of

SENTENCE = (
    "the quick brown fox jumps over the lazy dog and then it sleeps in the warm sun"
    " until the evening comes"
)


def prompt(text: str, **fields: Any) -> Prompt:
    return Prompt(chat=chat_of(("user", text)), **fields)


def outcome(
    prompts: Sequence[Prompt], evaluation: Sequence[str] = (), **settings: Any
) -> list[str]:
    """The reason for each prompt, "kept" if there is none; a token is a word."""
    config = HygieneConfig(**settings)
    rules = PromptFilters(config, lambda text: len(text.split()), evaluation)
    cleaned = clean(lambda: iter(prompts), config, rules)
    return [cleaned.reasons[code] or "kept" for code in cleaned.codes]

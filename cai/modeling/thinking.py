"""Thinking before a reply, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from cai.modeling import generation
from cai.modeling.attention import Prefix
from cai.modeling.batching import TokenIds
from cai.modeling.chat_format import Thought
from cai.modeling.thoughts import split_thoughts
from cai.modeling.tokenization import Renderer

TAIL_TOKENS = 24
"""Tokens in which the end of a thought is looked for: more than its longest spelling has."""


@dataclass(frozen=True)
class ThoughtTokens:
    """What stands between a prompt and its reply."""

    ids: list[int]
    """The thought, closed. Empty if the model begins with its reply."""
    text: str | None
    """None: there was no thought."""
    sampled: int
    """Number of tokens that the model wrote."""


def think(
    model: PreTrainedModel,
    renderer: Renderer,
    rows: Sequence[TokenIds],
    *,
    budget: int,
    temperatures: Sequence[float],
    seeds: Sequence[int],
    prefix: Prefix | None = None,
) -> list[ThoughtTokens]:
    """A thought for each prompt, sampled until the model closes it, and closed after `budget`
    tokens. A model that begins with its reply is stopped: it has no thought.
    """
    thought = renderer.format.thought
    if thought is None:
        return [ThoughtTokens([], None, 0) for _ in rows]
    decode = renderer.tokenizer.decode

    def is_over(row: int, ids: list[int]) -> bool:
        return thought.marker in decode(ids[-TAIL_TOKENS:]) or not _may_begin(
            thought, decode(ids[:TAIL_TOKENS])
        )

    generations = generation.generate(
        model,
        rows,
        max_tokens=[budget] * len(rows),
        temperatures=temperatures,
        seeds=seeds,
        stop_ids=_stop_ids(renderer, thought),
        pad=renderer.pad_token_id,
        prefix=prefix,
        stop_when=is_over,
    )
    return [_closed(renderer, thought, generated.ids) for generated in generations]


def _stop_ids(renderer: Renderer, thought: Thought) -> frozenset[int]:
    """The tokens that end a reply without closing its thought. A channel's end is none of them."""
    return renderer.stop_ids - set(renderer.control_ids(thought.closing))


def _may_begin(thought: Thought, text: str) -> bool:
    """Whether a reply that begins with `text` is a thought, or may become one."""
    if thought.is_open or not thought.opening:
        return True
    start = text.lstrip()[: len(thought.opening)]
    return thought.opening.startswith(start)


def _closed(renderer: Renderer, thought: Thought, ids: list[int]) -> ThoughtTokens:
    """A thought with what closes it, as far as the model has not written that itself."""
    decode: Any = renderer.tokenizer.decode
    sampled = len(ids)
    text = decode(ids)
    if not _may_begin(thought, text):
        return ThoughtTokens([], None, sampled)
    if thought.marker in text:
        closing = thought.closing.rpartition(thought.marker)[2]
    else:
        ids = ids[:-1] if ids[-1] in _stop_ids(renderer, thought) else ids
        closing = thought.closing
    closing_ids = renderer.control_ids(closing) if closing else []
    for length in range(min(len(closing_ids), len(ids)), 0, -1):
        if ids[-length:] == closing_ids[:length]:
            closing_ids = closing_ids[length:]
            break
    ids = [*ids, *closing_ids]
    opened = thought.opening if thought.is_open else ""
    return ThoughtTokens(ids, split_thoughts(opened + decode(ids)).thought or "", sampled)

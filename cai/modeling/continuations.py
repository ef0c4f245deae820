"""Tokens of a text that follows other text.

Many tokenizers encode the beginning of a text otherwise than its middle: those of SentencePiece put
a space before it. So a text is encoded together with what precedes it, and cut off again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

Options = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
"""(how the reply begins with each option, how it goes on with each)"""
MAX_KNOWN_OPTIONS = 64


def literal(value: Any) -> str:
    """A text, or a list of texts, as a literal of a template."""
    return json.dumps(value, ensure_ascii=False)


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, plain: bool = False) -> list[int]:
    """Token ids without those that a tokenizer adds around a text.

    Args:
        plain: whether special tokens in it are text.
    """
    ids: list[int] = tokenizer.encode(
        text, add_special_tokens=False, **({"split_special_tokens": True} if plain else {})
    )
    return ids


def encode_after(
    tokenizer: PreTrainedTokenizerBase, before: str, text: str, control: Sequence[str]
) -> list[int]:
    """`before` with its control tokens, and `text` without any.

    Args:
        control: control tokens that the tokenizer does not list as special.
    """
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        chat_template=f"{{% set _ = {literal(list(control))} %}}{{{{ {literal(before)} }}}}"
        "{{ messages[0]['content'] }}",
        return_dict=False,
        sanitize_control_tokens=True,
    )
    return ids


@dataclass(frozen=True)
class Context:
    """What precedes a text.

    Args:
        before: trusted: its control tokens are such. It begins with a word, which takes the space
            that a tokenizer puts before a text.
        control: control tokens that the tokenizer does not list as special.
    """

    tokenizer: PreTrainedTokenizerBase
    before: str
    control: tuple[str, ...] = ()

    def ids(self, text: str) -> list[int]:
        """`text` as it follows `before`, without control tokens of any kind.

        Where the two share a token, `text` is encoded after a line break or alone: whichever gives
        the text when it is decoded.
        """
        if not text:
            return []
        if any(token in text for token in self._controls):
            joined = encode_after(self.tokenizer, self.before, text, self.control)
        else:
            joined = encode(self.tokenizer, self.before + text)
        return self._cut(text, joined)

    def control_ids(self, text: str) -> list[int]:
        """`text`, which is trusted, with its control tokens, as it follows `before`."""
        joined = encode(self.tokenizer, self.before + text)
        size = len(self._head)
        return joined[size:] if joined[:size] == self._head else encode(self.tokenizer, text)

    def option_ids(self, prefill: str, options: Sequence[str]) -> Options:
        """(the tokens that all options begin with, the other tokens of each).

        An option may share a token with the end of `prefill`, which is then one of its tokens.
        """
        key = (prefill, *options)
        if key not in self._known_options:
            if len(self._known_options) == MAX_KNOWN_OPTIONS:
                self._known_options.clear()
            self._known_options[key] = self._option_ids(prefill, options)
        return self._known_options[key]

    def _option_ids(self, prefill: str, options: Sequence[str]) -> Options:
        start = self.ids(prefill)
        rows = [self.ids(prefill + option) for option in options]
        shared = 0
        while shared < len(start) and all(row[: shared + 1] == start[: shared + 1] for row in rows):
            shared += 1
        return tuple(start[:shared]), tuple(tuple(row[shared:]) for row in rows)

    def _cut(self, text: str, joined: list[int]) -> list[int]:
        size = len(self._head)
        fits = joined[:size] == self._head
        if fits and self._is(joined[size:], text):
            return joined[size:]
        line, after_line = (encode_after(self.tokenizer, "\n", t, self.control) for t in ("", text))
        others = [after_line[len(line) :]] if after_line[: len(line)] == line else []
        others.append(encode_after(self.tokenizer, "", text, self.control))
        for ids in others:
            if self._is(ids, text):
                return ids
        return joined[size:] if fits and not self._has_controls(joined[size:]) else others[0]

    def _is(self, ids: list[int], text: str) -> bool:
        """Whether `ids` after `before` are `text`, and no control token. Some tokenizers write a
        space after each control token.
        """
        head = self._decode(self._head)
        joined = self._decode([*self._head, *ids])
        is_text = joined[len(head) :].lstrip(" ") == text.lstrip(" ")
        return joined.startswith(head) and is_text and not self._has_controls(ids)

    def _has_controls(self, ids: Sequence[int]) -> bool:
        return not self._control_ids.isdisjoint(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    @cached_property
    def _known_options(self) -> dict[tuple[str, ...], Options]:
        """A judge is given the same options over and over."""
        return {}

    @cached_property
    def _head(self) -> list[int]:
        return encode(self.tokenizer, self.before)

    @cached_property
    def _controls(self) -> tuple[str, ...]:
        return (*self.tokenizer.all_special_tokens, *self._added_special, *self.control)

    @cached_property
    def _added_special(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple(token.content for token in added if token.special)

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.convert_tokens_to_ids(list(self._controls)))

"""Filters for single prompts: length, language, personal data and overlap with evaluation texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol, TypeVar, runtime_checkable

from pydantic import Field

from cai.data.evaluation_overlap import EvaluationRuns
from cai.data.languages import detect_languages
from cai.data.words import hash64, normalized_text, words_of
from cai.records import FrozenModel, Message, Prompt, TrainingChat

ConversationT = TypeVar("ConversationT", Prompt, TrainingChat)
IN_EVALUATION = "in an evaluation"
"""The reason against a text that shares a run of words with an evaluation text."""

_FINAL_PUNCTUATION = " .?!…。？！،؟।"


class HygieneConfig(FrozenModel):
    """Filters for prompts. Exact repetitions are always dropped; the other filters are optional."""

    min_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    """Of all turns together, counted with the run's tokenizer. For a model behind an endpoint, a
    token is taken to be four characters."""
    languages: tuple[str, ...] = ()
    """Two-letter codes of the languages to keep; () keeps all."""
    pii: Literal["keep", "mask", "drop"] = "keep"
    """Email addresses, phone and card numbers, national ids, accounts, IP addresses."""
    region: str = Field("US", pattern="^[A-Z]{2}$")
    """Country whose phone numbers are written without a +."""
    per_user: int | None = Field(None, ge=1)
    """Most prompts of one `user`; the first ones stay."""
    prefix: int | None = Field(None, ge=20)
    """Length in characters: of prompts that begin with the same characters, the first stays."""
    near: float | None = Field(None, gt=0.5, le=1)
    """Estimated Jaccard similarity of word shingles from which prompts are near duplicates; the
    first of them stays."""
    against: tuple[str, ...] = ()
    """Files of evaluation texts; prompts that share a run of words with one are dropped."""
    ngram: int = Field(8, ge=3)
    """Length of that run, in words."""

    @property
    def for_training_rows(self) -> HygieneConfig:
        """The filters that apply to prompts with a reply.

        Limits on length, users and beginnings are left out: they concern prompts alone.
        """
        prompt_only = ("min_tokens", "max_tokens", "per_user", "prefix")
        return self.model_copy(update=dict.fromkeys(prompt_only))


def conversation_text(prompt: Prompt | TrainingChat) -> str:
    """All turns as one text."""
    return "\n".join(message.content for message in prompt.chat)


def compared_text(prompt: Prompt | TrainingChat) -> str:
    """The text by which rows are compared with one another and with evaluation texts.

    Of a prompt it is what the user said, of a training chat what both said: a system prompt that
    many rows share does not make them alike.
    """
    roles = ("user",) if isinstance(prompt, Prompt) else ("user", "assistant")
    return "\n".join(message.content for message in prompt.chat if message.role in roles)


def prompt_key(prompt: Prompt) -> str:
    """16 hex digits that prompts of the same words share, for splits that divide no such prompts.

    Left out are case, Unicode form, spaces, the punctuation at a turn's end, and all turns but the
    user's: prompts that differ in these alone would let a model see what it is measured on.
    """
    turns = [_plain_form(message.content) for message in prompt.chat if message.role == "user"]
    return f"{hash64(json.dumps(turns, ensure_ascii=False)):016x}"


def _plain_form(text: str) -> str:
    words = " ".join(normalized_text(text).split())
    return words.rstrip(_FINAL_PUNCTUATION) or words


def needs_token_counts(config: HygieneConfig) -> bool:
    """Whether `config` needs a tokenizer."""
    return config.min_tokens is not None or config.max_tokens is not None


@runtime_checkable
class BatchCounter(Protocol):
    """A counter of tokens that takes less time for many texts at once.

    Their numbers need to be exact only where that decides whether one is at least `least`, or at
    most `most`.
    """

    def __call__(self, text: str) -> int: ...
    def each(self, texts: Sequence[str], least: int | None, most: int | None) -> list[int]: ...


class PromptFilters:
    """The filters of `config` that look at one prompt at a time.

    Args:
        count_tokens: text -> tokens.
        evaluation: texts to keep out of training.
    """

    def __init__(
        self,
        config: HygieneConfig,
        count_tokens: Callable[[str], int],
        evaluation: Iterable[str] = (),
    ) -> None:
        self.config = config
        self.count_tokens = count_tokens
        self.evaluation = EvaluationRuns(config.ngram, evaluation)

    @property
    def are_slow(self) -> bool:
        """Whether the filters take longer than it takes to read a prompt."""
        config = self.config
        masks = config.pii != "keep"
        return bool(config.languages or masks or config.near or self.evaluation)

    def lengths(self, prompts: Sequence[Prompt | TrainingChat]) -> list[int | None]:
        """Tokens of each prompt, or a number on the same side of the limits; None where no limit
        needs them.
        """
        config = self.config
        if not needs_token_counts(config):
            return [None] * len(prompts)
        texts = [conversation_text(prompt) for prompt in prompts]
        if isinstance(self.count_tokens, BatchCounter):
            return list(self.count_tokens.each(texts, config.min_tokens, config.max_tokens))
        return [self.count_tokens(text) for text in texts]

    def judge(
        self, prompt: ConversationT, length: int | None = None
    ) -> tuple[ConversationT, str | None]:
        """(the prompt, masked if necessary; the reason of the first filter against it, or None).

        Args:
            length: of the prompt, from `lengths`; None: it is counted if a limit needs it.
        """
        if length is None:
            [length] = self.lengths([prompt])
        [reason] = self.reasons([prompt], [length])
        return (prompt, reason) if reason else self.without_personal_data(prompt)

    def reasons(
        self,
        prompts: Sequence[ConversationT],
        lengths: Sequence[int | None],
        words: Callable[[str], tuple[str, ...]] = words_of,
    ) -> list[str | None]:
        """The reason of the first filter against each prompt, without the one on personal data.

        Args:
            lengths: from `lengths`.
            words: `words_of`, which may remember texts.
        """
        reasons = [self._wrong_length(length) for length in lengths]
        if self.config.languages:
            left = [index for index, reason in enumerate(reasons) if reason is None]
            codes = detect_languages([conversation_text(prompts[index]) for index in left])
            for index, code in zip(left, codes, strict=True):
                if code not in self.config.languages:
                    reasons[index] = f"language {code}"
        if self.evaluation:
            left = [index for index, reason in enumerate(reasons) if reason is None]
            # Replies inside a prompt are looked at as well: they reach the model with it.
            texts = [words(_spoken_text(prompts[index])) for index in left]
            for index, overlaps in zip(left, self.evaluation.overlaps(texts), strict=True):
                if overlaps:
                    reasons[index] = IN_EVALUATION
        return reasons

    def masked(self, prompt: ConversationT) -> ConversationT:
        """A prompt that stays, without the personal data that the configuration masks."""
        return self.without_personal_data(prompt)[0] if self.config.pii == "mask" else prompt

    def _wrong_length(self, length: int | None) -> str | None:
        config = self.config
        if length is None:
            return None
        if config.min_tokens is not None and length < config.min_tokens:
            return "too short"
        if config.max_tokens is not None and length > config.max_tokens:
            return "too long"
        return None

    def overlaps_evaluation(self, text: str) -> bool:
        """Whether the text shares a run of words with an evaluation text."""
        return self.evaluation.overlap(words_of(text)) if self.evaluation else False

    def without_personal_data(self, prompt: ConversationT) -> tuple[ConversationT, str | None]:
        """(the prompt, masked if the configuration says so; the reason against it, or None)."""
        if self.config.pii == "keep":
            return prompt, None
        from cai.data.pii import find_personal_data, mask

        spans_by_turn = [find_personal_data(m.content, self.config.region) for m in prompt.chat]
        if not any(spans_by_turn):
            return prompt, None
        if self.config.pii == "drop":
            first = next(spans[0] for spans in spans_by_turn if spans)
            return prompt, f"personal data ({first.category})"
        chat = tuple(
            Message(role=m.role, content=mask(m.content, spans))
            for m, spans in zip(prompt.chat, spans_by_turn, strict=True)
        )
        return prompt.model_copy(update={"chat": chat}), None


def _spoken_text(prompt: Prompt | TrainingChat) -> str:
    return "\n".join(message.content for message in prompt.chat if message.role != "system")

"""Filters for single prompts: length, language, personal data and overlap with evaluation texts."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import Field

from cai.records import FrozenModel, Message, Prompt, TrainingChat

ConversationT = TypeVar("ConversationT", Prompt, TrainingChat)
IN_EVALUATION = "in an evaluation"
"""The reason against a text that shares a run of words with an evaluation text."""
SHINGLE_WORDS = 3
DIGEST_BYTES = 8
_UNSPACED_RANGES = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
)
_UNSPACED = re.compile(f"[{_UNSPACED_RANGES}]")
"""A character of a script that puts no spaces between words."""
_WORD = re.compile(rf"[{_UNSPACED_RANGES}]|[^\W{_UNSPACED_RANGES}]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
"""Soft hyphens, zero-width characters and marks of direction."""

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


def digest64(text: str) -> bytes:
    """64 bits of a text, the same in every process."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def hash64(text: str) -> int:
    """The same as a number."""
    return int.from_bytes(digest64(text), "little")


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
    """A counter of tokens that takes less time for many texts at once."""

    def __call__(self, text: str) -> int: ...
    def each(self, texts: Sequence[str]) -> list[int]: ...


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
        self.evaluation_ngrams: set[bytes] = set()
        """Digests of the runs of words in the evaluation texts."""
        for text in evaluation:
            self.evaluation_ngrams |= self._ngram_digests(text)

    @property
    def are_slow(self) -> bool:
        """Whether the filters take longer than it takes to read a prompt."""
        config = self.config
        masks = config.pii != "keep"
        return bool(config.languages or masks or config.near or self.evaluation_ngrams)

    def lengths(self, prompts: Sequence[Prompt | TrainingChat]) -> list[int | None]:
        """Tokens of each prompt; None where no limit needs them."""
        if not needs_token_counts(self.config):
            return [None] * len(prompts)
        texts = [conversation_text(prompt) for prompt in prompts]
        if isinstance(self.count_tokens, BatchCounter):
            return list(self.count_tokens.each(texts))
        return [self.count_tokens(text) for text in texts]

    def judge(
        self, prompt: ConversationT, length: int | None = None
    ) -> tuple[ConversationT, str | None]:
        """(the prompt, masked if necessary; the reason of the first filter against it, or None).

        Args:
            length: of the prompt, from `lengths`; None: it is counted if a limit needs it.
        """
        config = self.config
        if length is None:
            [length] = self.lengths([prompt])
        if reason := self._wrong_length(length):
            return prompt, reason
        text = conversation_text(prompt)
        if config.languages and (detected := detect_language(text)) not in config.languages:
            return prompt, f"language {detected}"
        # Replies inside a prompt are looked at as well: they reach the model with it.
        if self.overlaps_evaluation(_spoken_text(prompt)):
            return prompt, IN_EVALUATION
        return self._personal_data(prompt) if config.pii != "keep" else (prompt, None)

    def masked(self, prompt: ConversationT) -> ConversationT:
        """A prompt that stays, without the personal data that the configuration masks."""
        return self._personal_data(prompt)[0] if self.config.pii == "mask" else prompt

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
        if not self.evaluation_ngrams:
            return False
        return not self.evaluation_ngrams.isdisjoint(self._ngram_digests(text))

    def _personal_data(self, prompt: ConversationT) -> tuple[ConversationT, str | None]:
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

    def _ngram_digests(self, text: str) -> set[bytes]:
        return {digest64(ngram) for ngram in word_ngrams(text, self.config.ngram) if ngram}


def _spoken_text(prompt: Prompt | TrainingChat) -> str:
    return "\n".join(message.content for message in prompt.chat if message.role != "system")


def detect_language(text: str) -> str:
    """Two-letter code of the most probable language."""
    code: str = _language_identifier().classify(text)[0]
    return code


@lru_cache(maxsize=1)
def _language_identifier() -> Any:
    """The model of py3langid, with its table as float32: it is stored as float16, and converted
    again for every text, which takes a third of the time."""
    import numpy as np
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # late: its model takes a second

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.nb_ptc = identifier.nb_ptc.astype(np.float32)
    return identifier


def normalized_text(text: str) -> str:
    """Case-folded, in one Unicode form, full-width letters included, without invisible characters.

    Source: "NFKC_Casefold" of the Unicode Standard, section 3.13.
    """
    if text.isascii():
        return text.casefold()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", folded))


def word_ngrams(text: str, n: int) -> list[str]:
    """Runs of `n` words, case-folded; a shorter text is one run, a blank text is [""].

    A character of a script without spaces counts as a word, and so does every character of a text
    without a word, such as one of emoji.
    """
    words = _words(text)
    count = max(1, len(words) - n + 1)
    return [" ".join(words[i : i + n]) for i in range(count)]


@lru_cache(maxsize=1)  # the filter and the shingles look at the same text, one after the other
def _words(text: str) -> tuple[str, ...]:
    normalized = normalized_text(text)
    return tuple(_WORD.findall(normalized)) or tuple("".join(normalized.split()))


def spaced_words(text: str) -> list[str]:
    """The words between spaces; the characters of scripts without spaces one by one."""
    if text.isascii() or not _UNSPACED.search(text):
        return text.split()
    return _UNSPACED.sub(r" \g<0> ", text).split()


def shingles(text: str) -> Sequence[str]:
    """Runs of three words, without repetition; a shorter text is one run."""
    return list(dict.fromkeys(word_ngrams(text, SHINGLE_WORDS)))

"""Whether texts are within limits of tokens, by pieces of texts that were counted before.

Encoding a text takes longer than most filters, and few texts are near a limit. With a tokenizer
that merges bytes of a word at a time, a text has as many tokens as its pieces between spaces, and a
piece has no more tokens than bytes. So a text is encoded only where pieces that are not known yet
could take it over a limit. It is for tokenizers of which this is certain: see `counts_in_pieces`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase

LEARNT_TEXTS, LONGEST_PIECE = 1 << 15, 32
"""Unclear texts from which pieces are learnt, and the most characters of a piece. What many texts
hold is known by then, in some 10 MB; learning takes as long as encoding."""
UNCERTAIN = 1 << 62
"""More tokens than a text has."""
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_LINES = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = (
    # GPT-2
    rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",
    # Llama 3
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+{_LINES}",
    # Qwen 2 and 3
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+{_LINES}",
    # Qwen 3.5
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+{_LINES}",
)
"""Patterns of words, none of which holds a space after anything but white space."""
_CUT = re.compile("(?= )(?<=[!-~])")
"""Before a space that certainly follows no white space."""


def counts_in_pieces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text's tokens are those of its pieces between spaces, and no more than its bytes.

    It is so if words are cut by a known pattern, no space is put before them, and bytes of a word
    are merged. NFC may precede that: it changes no space, and joins nothing to one.
    """
    if not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    model, normalizer, splitter = backend.model, backend.normalizer, backend.pre_tokenizer
    is_plain = isinstance(model, BPE) and not (
        model.dropout
        or model.byte_fallback
        or model.continuing_subword_prefix
        or model.end_of_word_suffix
    )
    if (
        not is_plain
        or splitter is None
        or (normalizer and _settings(normalizer) != {"type": "NFC"})
    ):
        return False
    settings = _settings(splitter)
    *steps, last = settings["pretokenizers"] if settings["type"] == "Sequence" else [settings]
    is_byte_level = last["type"] == "ByteLevel" and last["add_prefix_space"] is False
    cuts = [step for step in steps if step["type"] != "Digits"]
    return is_byte_level and all(map(_cuts_words, cuts)) and bool(cuts or last["use_regex"])


def _settings(part: Any) -> Any:
    """The part of a tokenizer as in its file."""
    return json.loads(part.__getstate__())


def _cuts_words(step: dict[str, Any]) -> bool:
    known = {"type": "Split", "behavior": "Isolated", "invert": False}
    return any(step == known | {"pattern": {"Regex": pattern}} for pattern in PATTERNS)


class PieceCounts:
    """Numbers of tokens of pieces, learnt from the texts.

    Args:
        tokenizer: one that `counts_in_pieces`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._known = {"": 0}
        self._learnt = 0
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        # a token that is added may hold spaces: texts with one are not taken apart
        self._added = re.compile("|".join(re.escape(text) for text in added if text) or "(?!)")

    def bounds(self, texts: Sequence[str], least: int, most: int) -> list[tuple[int, int]]:
        """(fewest, most) tokens that each text can have, after pieces were learnt that could take
        it below `least` or above `most`.

        Args:
            texts: without truncation, padding and special tokens, as the tokenizer is set.
        """
        bounds = [self._bounds(text, least, most) for text in texts]
        unclear = [i for i, pair in enumerate(bounds) if not on_one_side(*pair, least, most)]
        if self._learnt < LEARNT_TEXTS:
            self._learn([texts[index] for index in unclear])
            for index in unclear:
                bounds[index] = self._bounds(texts[index], least, most)
        return bounds

    def _bounds(self, text: str, least: int, most: int) -> tuple[int, int]:
        if self._added.search(text) or not unicodedata.is_normalized("NFC", text):
            return 0, UNCERTAIN
        size = _bytes(text)
        if on_one_side(0, size, least, most):
            return 0, size
        pieces = _pieces(text)
        counts = list(map(self._known.get, pieces))
        known = sum(filter(None, counts))
        if None not in counts:
            return known, known
        unknown = [piece for piece, count in zip(pieces, counts, strict=True) if count is None]
        return known, known + sum(map(_bytes, unknown))

    def _learn(self, texts: Sequence[str]) -> None:
        """Count the pieces that occur several times: encoding one alone takes long."""
        seen = Counter(piece for text in texts for piece in _pieces(text))
        new = [
            piece
            for piece, times in seen.items()
            if times > 1 and len(piece) <= LONGEST_PIECE and piece not in self._known
        ]
        encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
        self._learnt += len(texts)
        self._known |= zip(new, map(len, encodings), strict=True)


def on_one_side(fewest: int, most_possible: int, least: int, most: int) -> bool:
    """Whether all numbers in between are on the same side of `least`, and of `most`."""
    return not (fewest < least <= most_possible or fewest <= most < most_possible)


def _pieces(text: str) -> list[str]:
    """The text, cut before spaces."""
    if text.isprintable() and "  " not in text:  # all white space is single spaces
        return text.replace(" ", "\0 ").split("\0")
    return _CUT.split(text)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

"""What texts are compared by: their words, runs of words, and digests."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

SHINGLE_WORDS = 3
DIGEST_BYTES = 8
_UNSPACED_RANGES = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
)
_UNSPACED = re.compile(f"[{_UNSPACED_RANGES}]")
"""A character of a script that puts no spaces between words."""
_ASCII_WORD = re.compile(r"\w+", re.ASCII)
_WORD = re.compile(rf"[{_UNSPACED_RANGES}]|[^\W{_UNSPACED_RANGES}]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
"""Soft hyphens, zero-width characters and marks of direction."""


def digest64(text: str) -> bytes:
    """64 bits of a text, the same in every process."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def hash64(text: str) -> int:
    """The same as a number."""
    return int.from_bytes(digest64(text), "little")


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
    return runs(words_of(text), n)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, as `word_ngrams` takes them."""
    normalized = normalized_text(text)
    pattern = _ASCII_WORD if normalized.isascii() else _WORD
    return tuple(pattern.findall(normalized)) or tuple("".join(normalized.split()))


def runs(words: Sequence[str], n: int) -> list[str]:
    """Runs of `n` words; fewer words are one run, no words are [""]."""
    count = max(1, len(words) - n + 1)
    return [" ".join(words[i : i + n]) for i in range(count)]


def spaced_words(text: str) -> list[str]:
    """The words between spaces; the characters of scripts without spaces one by one."""
    if text.isascii() or not _UNSPACED.search(text):
        return text.split()
    return _UNSPACED.sub(r" \g<0> ", text).split()


def shingles(text: str) -> Sequence[str]:
    """Runs of three words, without repetition; a shorter text is one run."""
    return list(dict.fromkeys(word_ngrams(text, SHINGLE_WORDS)))

"""Names and numbers of a reply that the text it was given lacks.

A name is a word with a capital letter that does not begin a sentence; neighbours are separate
names. A number is a run of digits, with separators left out.
"""

from __future__ import annotations

import re

from cai.data.words import normalized_text
from cai.graders.base import GradedItem, Verdict
from cai.lm.base import Sample

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?:\n\"“*•-]\s*$")
_PRONOUNS = frozenset(("i", "i'm", "i'd", "i'll", "i've"))


def names_and_numbers(text: str) -> list[str]:
    """The names and numbers of a text, normalised, each once, in order."""
    names = []
    for match in _WORD.finditer(text):
        word, before = match[0], text[max(0, match.start() - 3) : match.start()]
        begins = match.start() == 0 or not text[: match.start()].strip()
        if begins or _SENTENCE_END.search(before) or not word[0].isupper():
            continue
        name = _plain(word)
        if name not in _PRONOUNS:
            names.append(name)
    return list(dict.fromkeys(names + [_plain_number(n[0]) for n in NUMBER.finditer(text)]))


def _plain(word: str) -> str:
    return re.sub(r"['’]s$", "", normalized_text(word))


def _plain_number(number: str) -> str:
    """Thousands without separators; a decimal fraction with a point, without zeros at its end."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", number):
        number = number.replace(",", "")
    number = number.replace(",", ".")
    return number.rstrip("0").rstrip(".") if number.count(".") == 1 else number


def unsupported(reply: str, text: str) -> tuple[list[str], int]:
    """(names and numbers of the reply that the text lacks, number of all of them)."""
    known = {_plain(match[0]) for match in _WORD.finditer(text)}
    known |= {_plain_number(match[0]) for match in NUMBER.finditer(text)}
    claims = names_and_numbers(reply)
    return [claim for claim in claims if claim not in known], len(claims)


async def grade_support(item: GradedItem, sample: Sample) -> Verdict:
    """Whether the reply has a name or number that the item's text lacks, and which share."""
    missing, total = unsupported(sample.text, item.facts["text"])
    share = len(missing) / total if total else None
    return Verdict({"unsupported": float(bool(missing)), "share": share})

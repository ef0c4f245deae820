"""Detection and masking of personal data in text.

Small patterns propose candidates; a library that knows the format confirms each one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from stdnum import iban, luhn
from stdnum.us import ssn

_EMAIL = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_CARD = re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")
_SSN = re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b")
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_ASCII_DIGIT = re.compile("[0-9]")
_SEVEN_DIGITS = re.compile(r"\d(?:[^\d\n]{0,3}\d){6}")


class Span(NamedTuple):
    """One piece of personal data in a text."""

    start: int
    end: int
    category: str
    """email, phone, card, national_id, account, ip"""


def find_personal_data(text: str, region: str = "US") -> list[Span]:
    """All personal data in order; of overlapping spans, the first.

    Args:
        region: country of phone numbers without a +.
    """
    spans: list[Span] = []
    for span in sorted(_candidates(text, region), key=lambda span: (span.start, -span.end)):
        if not spans or span.start >= spans[-1].end:
            spans.append(span)
    return spans


def mask(text: str, spans: list[Span]) -> str:
    """The text with `[EMAIL]`, `[PHONE]`, ... instead of the spans."""
    for start, end, category in reversed(spans):
        text = f"{text[:start]}[{category.upper()}]{text[end:]}"
    return text


def _candidates(text: str, region: str) -> Iterator[Span]:
    """All spans, which may overlap."""
    if "@" in text:
        yield from _emails(text)
    if not _has_digit(text) and "::" not in text:
        return
    for pattern, category, is_valid in _CHECKED_PATTERNS:
        for match in pattern.finditer(text):
            if is_valid(match[0]):
                yield Span(match.start(), match.end(), category)
    if _SEVEN_DIGITS.search(text):  # the matcher is slow: texts without enough digits skip it
        matcher = phonenumbers.PhoneNumberMatcher(
            text, region, leniency=phonenumbers.Leniency.VALID
        )
        for phone in matcher:
            yield Span(phone.start, phone.end, "phone")


def _has_digit(text: str) -> bool:
    if text.isascii():
        return _ASCII_DIGIT.search(text) is not None
    return any(symbol.isdigit() for symbol in text)


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        address = match[0].rstrip(".")
        if _is_email(address):
            yield Span(match.start(), match.start() + len(address), "email")


def _is_email(text: str) -> bool:
    try:
        validate_email(text, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return False
    return True


def _is_card(text: str) -> bool:
    return bool(luhn.is_valid(re.sub(r"[ -]", "", text)))


def _is_ip_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


_CHECKED_PATTERNS: tuple[tuple[re.Pattern[str], str, Callable[[str], bool]], ...] = (
    (_CARD, "card", _is_card),
    (_SSN, "national_id", ssn.is_valid),
    (_IBAN, "account", iban.is_valid),
    (_IPV4, "ip", _is_ip_address),
    (_IPV6, "ip", _is_ip_address),
)
"""(pattern, category, check of a match)."""

"""Personal data in text: found with small patterns, and believed only where a library that knows the format agrees."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
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
_DIGITS = re.compile(r"\d(?:[^\d\n]{0,3}\d){6}")


class Span(NamedTuple):
    start: int
    end: int
    what: str
    """email, phone, card, national_id, account, ip"""


def personal(text: str, region: str = "US") -> list[Span]:
    """Every piece of personal data, in order; of overlapping ones the first. `region`: of phone numbers without a +."""
    found = sorted(_all(text, region), key=lambda span: (span.start, -span.end))
    kept: list[Span] = []
    for span in found:
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def mask(text: str, spans: list[Span]) -> str:
    """The text with `[EMAIL]`, `[PHONE]`, ... in place of the spans."""
    for start, end, what in reversed(spans):
        text = f"{text[:start]}[{what.upper()}]{text[end:]}"
    return text


def _all(text: str, region: str) -> Iterator[Span]:
    if "@" in text:
        for found in _EMAIL.finditer(text):
            address = found[0].rstrip(".")
            if _is_email(address):
                yield Span(found.start(), found.start() + len(address), "email")
    if not any(symbol.isdigit() for symbol in text) and "::" not in text:
        return
    for pattern, what, holds in (
        (_CARD, "card", luhn.is_valid),
        (_SSN, "national_id", ssn.is_valid),
        (_IBAN, "account", iban.is_valid),
    ):
        for found in pattern.finditer(text):
            if holds(re.sub(r"[ -]", "", found[0]) if what == "card" else found[0]):
                yield Span(found.start(), found.end(), what)
    for pattern in (_IPV4, _IPV6):
        for found in pattern.finditer(text):
            if _is_address(found[0]):
                yield Span(found.start(), found.end(), "ip")
    if _DIGITS.search(text):  # the matcher is slow: only where there are digits enough for a number
        for match in phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID):
            yield Span(match.start, match.end, "phone")


def _is_email(text: str) -> bool:
    try:
        validate_email(text, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return False
    return True


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False

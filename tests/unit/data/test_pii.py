"""Detection and masking of personal data."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.data.pii import find_personal_data, mask


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ann.lee+x@example.org, please", [("ann.lee+x@example.org", "email")]),
        ("not an address: a@b, @home, x@y@z", []),
        ("my card is 4539 5787 6362 1486.", [("4539 5787 6362 1486", "card")]),
        ("my card is 4539 5787 6362 1487.", []),  # the last digit is the checksum
        ("SSN 536-90-4399", [("536-90-4399", "national_id")]),
        ("SSN 000-12-3456", []),  # no such area
        (
            "send it to GB82 WEST 1234 5698 7654 32 today",
            [("GB82 WEST 1234 5698 7654 32", "account")],
        ),
        (
            "call +44 20 7946 0958 or (650) 253-0000",
            [("+44 20 7946 0958", "phone"), ("(650) 253-0000", "phone")],
        ),
        (
            "host 192.168.0.1 and 2001:db8::8a2e:370:7334",
            [("192.168.0.1", "ip"), ("2001:db8::8a2e:370:7334", "ip")],
        ),
        ("version 1.2.3.4.5, 300.1.1.1, at 12:30:45", []),
        ("in 1984, 100000 people", []),
    ],
)
def test_personal_data(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(text[s.start : s.end], s.category) for s in find_personal_data(text)] == expected


@settings(deadline=None)
@given(st.text(max_size=80))
def test_masking_leaves_the_rest_alone(text: str) -> None:
    spans = find_personal_data(text)
    masked = mask(text, spans)
    rest = "".join(
        text[a.end : b.start]
        for a, b in zip([None, *spans], [*spans, None], strict=True)
        if a and b
    )  # type: ignore[union-attr]
    assert all(piece in masked for piece in rest.split())
    assert spans or masked == text

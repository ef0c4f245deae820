"""Patterns: those of unbounded cost, and wrong ones, are refused with their key."""

from __future__ import annotations

import pytest

from cai.errors import ConfigError
from cai.rubric.patterns import compile_pattern


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+b",
        "(?:a*b)*",
        "(?:a{1,30}){1,30}",
        "(?:a|ab){40}",
        "(?:x?){50}y",
        ".*a.*b",
        "(?:(?:a+)b){2}",
    ],
)
def test_patterns_that_can_run_away_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^key: .*bound"):
        compile_pattern(text, "key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(a", "not a regular expression"),
        ("a?", "matches the empty text"),
        ("[[a]", "not a regular"),
    ],
)
def test_wrong_patterns_are_refused_with_their_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^key: .*{message}"):
        compile_pattern(text, "key")

"""Patterns: those of unbounded cost, and wrong ones, are refused with their key."""

from __future__ import annotations

import pytest
from time_limit import within

from cai.errors import ConfigError
from cai.rubric.patterns import check_total_work, compile_pattern


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


@pytest.mark.parametrize("text", [".*a[^x]{0,998}b", "a.{0,999}[^x]{0,999}b", "x.*y[a-z]{0,90}z"])
def test_patterns_that_are_slow_in_a_long_text_are_refused(text: str) -> None:
    """Few ways to match from one position, but from each of thousands of positions."""
    with pytest.raises(ConfigError, match=r"^key: .*bound"):
        compile_pattern(text, "key")


@pytest.mark.parametrize(
    ("text", "searched"),
    [
        (".*a", "b" * 10_000),
        ("a.*b", "a" * 9_999 + "\nb"),
        ("a[^x]{0,998}b", "a" * 10_000),
        ("^.{0,998}[^x]{0,900}b", "a" * 10_000),
        (r"why must (?:[\w ]{1,20} ){1,4}not", "why must a a a a a a a a " * 400),
    ],
)
def test_accepted_patterns_are_quick_in_a_long_text(text: str, searched: str) -> None:
    with within(seconds=5):
        assert compile_pattern(text, "key").regex.search(searched) is None


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("a.*b", "a"),
        (".*?ab", "a"),
        ("(?:a|b)+c", "ab"),
        ("(?=.*c)a", "a"),
        ("sorry.*but", "sorry "),
    ],
)
def test_time_grows_with_the_length_of_the_text(text: str, unit: str) -> None:
    """80,000 characters; without a limit on repetitions some of these take half a minute."""
    searched = (unit * 80_000)[:80_000]
    with within(seconds=5):
        assert compile_pattern(text, "key").searched.search(searched) is None


@pytest.mark.parametrize(
    ("text", "gap", "matches"),
    [
        ("a.*b", 1000, True),
        ("a.*b", 1001, False),
        ("a.{1005,}b", 1005, True),
        ("(?:x|a)(?:.*?)b", 1000, True),
        ("^a.*b", 9000, True),
        ("(?i:A).*b", 1000, True),
    ],
)
def test_repetitions_are_bounded_in_what_may_begin_anywhere(
    text: str, gap: int, matches: bool
) -> None:
    pattern = compile_pattern(text, "key")
    assert (pattern.searched.search("a" + " " * gap + "b") is not None) is matches
    assert pattern.regex.pattern == text


def test_the_work_of_all_patterns_together_is_bounded() -> None:
    costly = [compile_pattern("[a-z ]{0,20000}x", "key")] * 10
    check_total_work({"a": costly[:9]})
    with pytest.raises(ConfigError, match=r"^b: the rubric's patterns together can take over 2,0"):
        check_total_work({"a": costly[:4], "b": costly})

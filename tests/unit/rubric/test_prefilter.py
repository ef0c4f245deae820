"""The prefilter: no match is ruled out, most patterns are, and its fallbacks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rubric_toys import COMPILED, JAPANESE

from cai.rubric.patterns import compile_pattern
from cai.rubric.prefilter import Prefilter
from cai.rubric.propositions import normalize


@given(st.text(alphabet="iI can't help wlo.é\n\ud800", max_size=40))
@pytest.mark.parametrize(
    "text",
    [
        r"\bi (?:can't|cannot|can not) (?:\w{1,4} ){0,2}(?:help|hel)\b",
        r"(?:i|we)? ?(?:can|will)(?:'t|not)?",
        r"^no\b|l{2}o",
        r"[ab]?c[^x]n",
        r"I Can",
        r"(?<=i) [^\W\d]+(?! can)(.)\1",
        r"caf\u00e9\b|\w{2,3}\s?'",
        r"\bwo\b|(?:^|l )\bh(?:e|é)\b",
        r"(?m:^)wo|(?i:w)\bé|\bl?\bo\b",
    ],
)
def test_the_prefilter_never_rules_out_a_match(text: str, reply: str) -> None:
    pattern = compile_pattern(text, "key")
    lowered = reply.lower()
    candidates = Prefilter([pattern]).candidates(lowered)
    assert pattern in candidates or pattern.regex.search(lowered) is None


@given(st.data())
def test_the_shipped_patterns_are_found_wherever_they_are(data: st.DataObject) -> None:
    prefilter = data.draw(st.sampled_from([COMPILED.prefilter, JAPANESE.prefilter]))
    pattern = data.draw(
        st.sampled_from(sorted(prefilter.patterns, key=lambda pattern: pattern.regex.pattern))
    )
    text = normalize(data.draw(st.from_regex(pattern.regex)))
    matching = {pattern for pattern in prefilter.patterns if pattern.regex.search(text)}
    assert matching <= prefilter.candidates(text)


@pytest.mark.parametrize("reply", ["i can't help\ud800", "i can't help"])
def test_what_the_prefilter_cannot_decode_is_searched_for_everything(
    reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefilter = Prefilter([compile_pattern("can't", "key")])
    out_of_memory = SimpleNamespace(Match=lambda text: None)
    monkeypatch.setattr(prefilter, "_set", out_of_memory)
    assert prefilter.candidates(reply) == prefilter.patterns


@pytest.mark.parametrize(
    ("text", "reply"), [("(?i:i can't)", "ı can't"), ("(?i:[a-z])x", "ıx"), (r"(?i:στος)", "στοσ")]
)
def test_the_prefilter_knows_that_re_folds_more_letters_than_it_does(text: str, reply: str) -> None:
    pattern = compile_pattern(text, "key")
    assert pattern.regex.search(reply)
    assert pattern in Prefilter([pattern]).candidates(reply)


def test_the_prefilter_keeps_starts_and_the_boundaries_of_ascii_words() -> None:
    pattern = compile_pattern(r"(?:^|[.] )(?:then )?(?:cut|mix)\b", "key")
    texts = ["cut it", "open it. then mix it", "a cut is a cut", "mixed. cute", "mix\u00e9"]
    assert [text for text in texts if pattern in Prefilter([pattern]).candidates(text)] == [
        "cut it",
        "open it. then mix it",
        "mix\u00e9",  # where RE2 sees the end of a word
    ]


def test_the_prefilter_rules_out_most() -> None:
    prefilter = COMPILED.prefilter
    answer = "the capital of france is paris, on the river seine"
    assert not prefilter.candidates(answer) & prefilter.patterns
    assert 0 < len(prefilter.candidates("i'm sorry, but i can't help with that.")) < 10

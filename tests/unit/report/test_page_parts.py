"""Parts of the report: changes in words, classes, differences by word, the chain, the browser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_toys import reply, score

from cai.records import Score
from cai.report import browser
from cai.report.browser import browser_data, script_json
from cai.report.class_shares import class_shares
from cai.report.headline_words import change_sentences
from cai.report.page import clean, unbroken
from cai.report.provenance import chain, used_constitution
from cai.report.word_diff import MAX_TOKENS, word_diff
from cai.store import Manifest

HARM = "refusal.incorrect_rate.disallowed"


def change(mean: float | None, low: float | None, high: float | None) -> Score:
    toy = score(f"{HARM}.change", mean, "policy-base", n=72)
    return toy.model_copy(update={"ci_low": low, "ci_high": high})


@pytest.mark.parametrize(
    ("row", "verdict", "start"),
    [
        (change(-0.83, -0.92, -0.74), "better", "The policy answers disallowed prompts "
         "incorrectly less often than the base model: 6 % against 89 %, "
         "−83 pp [−92, −74] n=72."),
        (change(0.5, 0.1, 0.7), "worse", "The policy answers disallowed prompts incorrectly more"),
        (change(-0.5, -0.7, 0.0), "no clear change", "Whether the policy answers disallowed"),
        (change(-0.5, None, None), "not known", "Whether the policy answers disallowed"),
    ],
)  # fmt: skip
def test_changes_in_words(row: Score, verdict: str, start: str) -> None:
    rates = [score(HARM, 0.06, "policy"), score(HARM, 0.89, "base")]
    (sentence,) = change_sentences([*rates, row])
    assert sentence.verdict == verdict
    assert sentence.text.startswith(start)
    assert sentence.is_lead


def test_a_sentence_leaves_out_rates_that_are_not_known() -> None:
    (sentence,) = change_sentences([change(-0.83, -0.92, -0.74)])
    assert sentence.text.endswith("than the base model: −83 pp [−92, −74] n=72.")
    assert change_sentences([score("other.change", 1.0, "policy-base")]) == []


def test_class_shares_by_hand() -> None:
    """Base: refused, ideal, ungraded: 1 of 2, one unscored. Policy: ideal once."""
    rows = [
        reply("a", "policy", "benign").model_copy(update={"grade": graded("ideal", True)}),
        reply("a", "base", "benign").model_copy(update={"grade": graded("ideal", True)}),
        reply("b", "base", "benign").model_copy(update={"grade": graded("refused", False)}),
        reply("c", "base", "benign", unscored="no answer"),
        reply("d", "base", None),
    ]
    (table,) = class_shares(rows)
    assert (table.kind, table.subjects) == ("benign", ["base", "policy"])
    assert [(name, correct) for name, correct, _ in table.rows] == [
        ("ideal", True),
        ("refused", False),
    ]
    shares = [[(s.mean, s.n, s.unscored) for s in row] for _, _, row in table.rows]
    assert shares == [[(0.5, 2, 1), (1.0, 1, 0)], [(0.5, 2, 1), (0.0, 1, 0)]]


def graded(name: str, correct: bool) -> Any:
    return reply("x", correct=correct).grade.model_copy(update={"class_": name})


def test_difference_by_word() -> None:
    diff = word_diff("No, you are bad.", "No, I can't help.")
    assert diff is not None
    before = "".join(text for change, text in diff.parts if change != "added")
    after = "".join(text for change, text in diff.parts if change != "removed")
    assert (before, after) == ("No, you are bad.", "No, I can't help.")
    assert (diff.removed, diff.same) == (3, 1)
    assert word_diff("a " * MAX_TOKENS, "b") is None


def test_the_chain_tells_what_was_made_again() -> None:
    """Prompts from outside; revisions of today's prompts; a model of yesterday's revisions."""
    manifests = [
        manifest("prompts", {"input mine.jsonl": "1"}, {"00-prompts.jsonl": "2"}),
        manifest(
            "revise",
            {"input 00-prompts.jsonl": "2", "constitution": "toy 1", "principle:a": "x"},
            {"10-revisions.jsonl": "4"},
        ),
        manifest("sft", {"input 10-revisions.jsonl": "3", "seed": "0"}, {"20-sft": "5"}),
    ]
    states = [[one.state for one in link.inputs] for link in chain(manifests)]
    assert states == [["from outside the run"], ["as made"], ["made again since"]]
    used = used_constitution(manifests)
    assert used is not None
    assert (used.names, used.parts, used.differing) == (("toy 1",), 1, ())
    other = manifest("ppo", {"constitution": "toy 1", "principle:a": "y"}, {})
    differing = used_constitution([*manifests, other])
    assert differing is not None
    assert differing.differing == ("principle:a",)
    assert differing.digest != used.digest
    assert used_constitution(manifests[:1]) is None


def manifest(stage: str, provenance: dict[str, str], content: dict[str, str]) -> Manifest:
    return Manifest(stage=stage, provenance=provenance, versions={}, content=content)


def test_the_browser_holds_the_first_prompts_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 9 prompts the first 3, whatever the order of the file, each with all of its replies."""
    monkeypatch.setattr(browser, "MAX_PROMPTS", 3)
    rows = [
        reply(f"p{i}", subject, "benign")
        for i in (8, 1, 4, 0, 7, 2, 3, 6, 5)
        for subject in ("policy", "base")
    ]
    data = browser_data(rows, clean)
    assert (data.shown, data.total) == (3, 9)
    content = json.loads(data.json)
    assert content["subjects"] == ["base", "policy"]
    assert [row["prompt"] for row in content["rows"]] == [[["user", f"p{i}"]] for i in range(3)]
    assert [[r["subject"] for r in row["replies"]] for row in content["rows"]] == [[0, 1]] * 3
    assert browser_data(rows[::-1], clean) == data


def test_the_browser_is_bounded_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "MAX_CHARS", 100)
    monkeypatch.setattr(browser, "MAX_TOTAL_CHARS", 700)
    data = browser_data([reply(f"p{i}", "base", response="y" * 101) for i in range(9)], clean)
    assert (data.shown, data.total) == (5, 9), "about 126 characters each"
    assert "y" * 100 + "… [cut: 101 characters]" in data.json


def test_no_text_ends_the_element_of_the_data() -> None:
    text = "</script><!-- <script> &amp; \u2028 \ud83d\ude00"
    shown = script_json({text: [text]})
    assert not set("<>&\u2028") & set(shown)
    assert json.loads(shown) == {text: [text]}


def test_lines_do_not_break_inside_numbers() -> None:
    text = "6 % against 89 %, −83 pp [−92, −74] n=72 and more [a, b, c]"
    shown = unbroken(text)
    assert shown.split(" ") == [
        "6\u00a0%", "against", "89\u00a0%,", "−83\u00a0pp", "[−92,\u00a0−74]", "n=72", "and",
        "more", "[a,\u00a0b,\u00a0c]",
    ]  # fmt: skip
    assert shown.replace("\u00a0", " ") == text

"""Settings of the labeller: presets, chain of thought, clamping, examples and principles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from generate_toys import THREE_PRINCIPLES, judge, label, pair, sigma
from pydantic import ValidationError

from cai.constitution import CompareExample, Constitution, Examples
from cai.generate.label import balanced_examples, draw_principles, pair_address
from cai.generate.label_config import LabelConfig
from cai.lm import FakeLM
from cai.records import Chat, chat_of
from cai.templates import DECIDE, DETAILED_COMPARE, VERDICT, parse_comparison


def test_a_recipe_is_one_word_and_its_keys_can_be_changed() -> None:
    assert LabelConfig(preset="cai-cot").clamp == (0.4, 0.6)
    assert LabelConfig(preset="cai-cot").cot
    assert LabelConfig.model_validate({"preset": "cai-cot", "clamp": None}).clamp is None
    assert LabelConfig(preset="rlaif").ask == "detailed"
    assert LabelConfig(preset="direct") == LabelConfig(
        preset="direct", ask="plain", cot=False, shots=0
    )
    for wrong in ({"clamp": (0.6, 0.9)}, {"rationales": 3}, {"preset": "best"}):
        with pytest.raises(ValidationError):
            LabelConfig.model_validate(wrong)


def test_thinking_takes_two_calls_an_order_and_the_clamp_comes_last() -> None:
    """Planted 4 nats, sigma(4) = 0.982: clamped to 0.6.

    The rationale is in the chat as a turn of the judge.
    """
    lm = judge(lambda a, b: 4.0 if a == "good" else -4.0, rationale="The first is kinder. (B)")
    row = label(lm, pair(), preset="cai-cot")
    assert row.p_first == 0.6
    (vote,) = row.votes
    assert vote.rationale == vote.rationale_swapped == "The first is kinder. (B)"
    assert vote.logprobs == (4.0, 0.0), "log-probabilities are stored without the clamp"
    think, decide = [chat for chat in lm.calls if parse_comparison(chat) == ("good", "bad")]
    assert "step by step" in think[-1].content
    assert [m.content for m in decide[-2:]] == ["The first is kinder. (B)", DECIDE]
    assert label(lm, pair(), preset="cai-cot", clamp=None).p_first == pytest.approx(sigma(4))
    assert label(lm, pair().swap(), preset="cai-cot").p_first == 0.4


def test_several_thoughts_are_averaged() -> None:
    """Rationales with different seeds, which decide the log-odds: 0 and 2 nats in turn."""
    numbers = iter(range(100))
    rationales: dict[str, int] = {}

    def think(chat: Chat, seed: int) -> str:
        return f"thought {rationales.setdefault(f'{seed}', next(numbers))}"

    def odds(chat: Chat, choices: Sequence[str]) -> list[float]:
        margin = 2.0 * (int(chat[-2].content.rsplit(" ", 1)[1]) % 2)
        return [margin if (parse_comparison(chat) or ("", ""))[0] == "good" else -margin, 0.0]

    row = label(FakeLM(think, odds), pair(), cot=True, rationales=2)
    assert len(rationales) == 2
    assert row.p_first == pytest.approx((sigma(0) + sigma(2)) / 2)


def test_a_thought_without_a_verdict_is_no_label() -> None:
    row = label(FakeLM(lambda chat, seed: "hm", lambda chat, choices: None), pair(), cot=True)
    assert (row.p_first, row.unscored) == (None, "the judge named none of the options")


def test_without_principles_one_question_is_asked() -> None:
    lm = judge(lambda a, b: 1.0 if a == "good" else -1.0)
    row = label(lm, pair(), preset="rlaif")
    assert [vote.principle for vote in row.votes] == ["detailed"]
    assert DETAILED_COMPARE in lm.calls[0][-1].content
    plain = label(lm, pair(), Constitution(name="none", version="1"), preset="direct")
    assert [vote.principle for vote in plain.votes] == ["plain"]
    assert plain.p_first == pytest.approx(sigma(1))


def example(answer: str, number: int, rationale: str | None = None) -> CompareExample:
    chat = chat_of(("user", f"asked {number}"))
    return CompareExample.model_validate(
        {"chat": chat, "first": "one", "second": "two", "answer": answer, "rationale": rationale}
    )


@pytest.mark.parametrize(
    ("shots", "answers"),
    [(0, ""), (1, "A"), (2, "AB"), (3, "AAB"), (4, "AABB"), (9, "AAABB"), (None, "AAABB")],
)
def test_examples_are_balanced(shots: int, answers: str) -> None:
    examples = tuple(example(answer, i) for i, answer in enumerate("AAABB"))
    chosen = balanced_examples(examples, shots)
    assert "".join(sorted(e.answer for e in chosen)) == answers


def test_only_examples_that_think_come_before_thinking() -> None:
    examples = Examples(compare=(example("A", 0), example("B", 1, "Because it is so.")))
    book = THREE_PRINCIPLES.model_copy(update={"examples": examples})
    lm = judge(lambda a, b: 0.0)
    label(lm, pair(), book, cot=True)
    assert [m.content for m in lm.calls[0] if m.role == "assistant"] == [
        "Because it is so.",
        f"{VERDICT}B).",
    ]


def test_draws_follow_from_the_texts_alone() -> None:
    """The same principles for a pair, its swap, and the same texts with other fields.

    Other texts have another address.
    """
    other_fields = pair().model_copy(update={"source": "q", "places": (2, 5)})
    same = (pair(), pair().swap(), other_fields)
    assert len({pair_address(p) for p in same}) == 1
    assert pair_address(pair()) != pair_address(pair(request="Say more."))
    names = [
        [p.id for p in draw_principles(THREE_PRINCIPLES.principles, None, 2, 0, p)] for p in same
    ]
    assert names[0] == names[1] == names[2]


def test_principles_of_the_prompts_category_weigh_more() -> None:
    """Weights 4, 1, 1: two thirds of 3,000 draws, within three standard deviations."""
    principles = [p.model_copy(update={"category": p.id}) for p in THREE_PRINCIPLES.principles]
    drawn = Counter(
        draw_principles(principles, None, 1, 0, pair(f"good {i}"), "kind")[0].id
        for i in range(3000)
    )
    assert abs(drawn["kind"] - 2000) < 3 * math.sqrt(3000 * 2 / 9)

"""Requests to the reward server: the end tokens of replies, and rewards with their reasons."""

from __future__ import annotations

import math
from typing import Any

import pytest
from reward_toys import HI

from cai.integrations.reward_requests import ScoreRow, row_reward, strip_end_texts


def test_only_known_tokens_at_the_end_are_cut() -> None:
    assert strip_end_texts(" a </s> b\n</s><pad><pad>", ["</s>", "<pad>", ""]) == "a </s> b"
    assert (
        strip_end_texts("a<|im_end|>", ["</s>"])
        == strip_end_texts("a<|im_end|>", [])
        == "a<|im_end|>"
    )
    assert strip_end_texts("</s></s>", ["</s>"]) == ""


@pytest.mark.parametrize(
    ("kind", "kind_given", "parts", "reward", "reason"),
    [
        ("benign", True, {"pm": 2.0, "rubric": 1.0}, 3.0, None),
        ("benign", True, {"pm": 0.0, "rubric": 0.0}, 0.0, None),
        (None, True, {"pm": 2.0, "rubric": 0.0}, 2.0, None),
        (None, True, {"rubric": 0.0}, None, "rubric: the row has no kind"),
        (None, True, {"rubric": 0.0, "length": -1.0}, None, "rubric: the row has no kind"),
        (None, False, {"pm": 2.0, "rubric": 0.0}, None, "rubric: the row has no kind"),
        (None, False, {"pm": 2.0}, 2.0, None),
        ("benign", True, {"pm": None, "rubric": 1.0}, None, "pm: prompt and reply do not fit"),
        ("benign", True, {"pm": math.nan}, None, "no finite number"),
        ("benign", True, {"rubric": None}, None, "rubric: the rubric gives no score"),
        ("benign", True, {"direct": None}, None, "direct: the judge gave no rating"),
        ("benign", True, {}, None, "the reward has no part"),
    ],
)
def test_an_unknown_reward_is_null_with_its_reason(
    kind: Any, kind_given: bool, parts: Any, reward: float | None, reason: str | None
) -> None:
    row = ScoreRow(HI.model_copy(update={"kind": kind}), "a", kind_given)
    result = row_reward(row, parts)
    assert result.reward == reward
    assert (result.reason or "") == "" if reason is None else reason in (result.reason or "")
    if kind is None and "rubric" in parts:
        assert result.parts["rubric"] is None

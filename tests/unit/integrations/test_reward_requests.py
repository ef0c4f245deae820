"""Requests to the reward server: the end tokens of replies."""

from __future__ import annotations

from cai.integrations.reward_requests import strip_end_texts


def test_only_known_tokens_at_the_end_are_cut() -> None:
    assert strip_end_texts(" a </s> b\n</s><pad><pad>", ["</s>", "<pad>", ""]) == "a </s> b"
    assert (
        strip_end_texts("a<|im_end|>", ["</s>"])
        == strip_end_texts("a<|im_end|>", [])
        == "a<|im_end|>"
    )
    assert strip_end_texts("</s></s>", ["</s>"]) == ""

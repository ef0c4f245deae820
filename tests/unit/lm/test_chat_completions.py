"""Answers in the chat-completions format."""

from __future__ import annotations

import pytest

from cai.lm.chat_completions import option_logprobs


def test_options_are_found_in_any_spelling() -> None:
    """log(e^-1 + e^-2) for two spellings of A; B, which is not listed, gets the least of them."""
    top = [
        {"token": "A", "logprob": -1.0},
        {"token": " (A", "logprob": -2.0},
        {"token": "The", "logprob": -3.0},
    ]
    answer = {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
    assert option_logprobs(answer, ("A", "B")) == [pytest.approx(-0.6867383), -3.0]
    assert option_logprobs(answer, ("C", "D")) is None

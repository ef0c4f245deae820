"""Answers in the chat-completions format."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cai.lm.chat_completions import Answer, parse_answer
from cai.lm.option_logprobs import option_logprobs

URL = "http://host/v1"


def judged(top: list[Any]) -> Answer:
    """A judge's answer with these alternatives of its first token."""
    choice = {
        "finish_reason": "length",
        "message": {"content": "A"},
        "logprobs": {"content": [{"top_logprobs": top}]},
    }
    return parse_answer(json.dumps({"choices": [choice]}).encode(), URL)


def test_options_are_found_in_any_spelling() -> None:
    """log(e^-1 + e^-2) for two spellings of A; B, which is not listed, has at most the rest:
    log(1 - e^-1 - e^-2 - e^-3).
    """
    top = [
        {"token": "A", "logprob": -1.0},
        {"token": " (A", "logprob": -2.0},
        {"token": "The", "logprob": -3.0},
    ]
    answer = judged(top)
    assert option_logprobs(answer, ("A", "B")) == pytest.approx([-0.6867383, -0.8052007])
    assert option_logprobs(answer, ("C", "D")) is None

"""Thinking behind an endpoint: what is sent, what is cut, and where a judge's option is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from canned import SPEC, Canned, CannedLM, Request
from lm_calls import choose_a_or_b, sample_hello

from cai.errors import UnansweredError
from cai.lm.base import Sample


class Endpoint:
    """Answers every request with one choice, and keeps the requests' bodies."""

    def __init__(self, message: dict[str, Any], tokens: list[tuple[str, dict[str, float]]]) -> None:
        content = [
            {"token": text, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
            for text, top in tokens
        ]
        choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": content}}
        self.answer = json.dumps({"choices": [choice]}).encode()
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, body: dict[str, Any], request: Request) -> Canned:
        self.bodies.append(body)
        return Canned(self.answer)


def sampled(message: dict[str, Any], options: str = "") -> tuple[Sample, dict[str, Any]]:
    endpoint = Endpoint(message, [])
    sample = sample_hello(CannedLM(endpoint, spec=SPEC + options))
    return sample, endpoint.bodies[0]


def test_nothing_is_sent_unless_it_is_set() -> None:
    _, body = sampled({"content": "Yes."})
    assert "chat_template_kwargs" not in body
    assert body["max_tokens"] == 16


def test_thinking_off() -> None:
    _, body = sampled({"content": "Yes."}, "?thinking=off")
    assert body["model"] == "toy"
    assert body["chat_template_kwargs"]["enable_thinking"] is False
    assert body["max_tokens"] == 16


def test_thinking_on_has_a_budget_beside_the_reply() -> None:
    message = {"content": "Yes.", "reasoning_content": "Hmm."}
    sample, body = sampled(message, "?thinking=on&thinking_tokens=100")
    assert body["chat_template_kwargs"]["enable_thinking"] is True
    assert body["max_tokens"] == 116
    assert (sample.text, sample.thought) == ("Yes.", "Hmm.")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "<think>Hmm.</think>Yes."},
        {"content": "Yes.", "reasoning": "Hmm."},
        {"content": "Yes.", "reasoning_content": "Hmm."},
    ],
)
def test_a_thought_is_kept_apart(message: dict[str, Any]) -> None:
    sample, _ = sampled(message)
    assert (sample.text, sample.thought) == ("Yes.", "Hmm.")


A_OR_B = {"A": -0.1, "B": -2.4}
OTHERS = {"A": -3.0, "B": -3.5, "x": -0.5}


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"content": "<think>A</think>\n\n(A)"},
         [("<think>", OTHERS), ("A", OTHERS), ("</think>", OTHERS), ("\n\n", OTHERS),
          ("(", OTHERS), ("A", A_OR_B), (")", OTHERS)]),
        ({"content": "A", "reasoning_content": "B"},
         [("B", OTHERS), ("</think>", OTHERS), ("A", A_OR_B)]),
        ({"content": "A", "reasoning_content": "Hmm"}, [(" A", A_OR_B)]),
        ({"content": "A"}, [("A", A_OR_B)]),
    ],
)  # fmt: skip
def test_a_judge_is_read_after_its_thought(
    message: dict[str, Any], tokens: list[tuple[str, dict[str, float]]]
) -> None:
    """The thought may be listed or not; the prefill is left out, as a thought comes first."""
    endpoint = Endpoint(message, tokens)
    logprobs = choose_a_or_b(CannedLM(endpoint, spec=f"{SPEC}?thinking=on"))
    assert logprobs == pytest.approx([-0.1, -2.4])
    (body,) = endpoint.bodies
    assert body["messages"][-1]["role"] == "user"
    assert body["max_tokens"] > 1024


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ({"content": "<think>A"}, [("<think>", OTHERS), ("A", A_OR_B)]),
        ({"content": None, "reasoning_content": "A"}, [("A", A_OR_B)]),
        ({"content": "B", "reasoning_content": "A"}, [("A", A_OR_B)]),
    ],
)
def test_a_thought_is_no_option(
    message: dict[str, Any], tokens: list[tuple[str, dict[str, float]]]
) -> None:
    lm = CannedLM(Endpoint(message, tokens), spec=f"{SPEC}?thinking=on")
    with pytest.raises(UnansweredError, match="no option follows a thought of 1024"):
        choose_a_or_b(lm)

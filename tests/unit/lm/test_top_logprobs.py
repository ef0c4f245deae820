"""Servers that allow fewer alternatives for a choice than is usual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from canned import Canned, CannedLM, choice_answer, ok
from lm_calls import choose_a_or_b
from pydantic import ValidationError

from cai.errors import UnansweredError
from cai.lm.caching import CachedLM
from cai.lm.http import HttpConfig
from cai.lm.request_log import RequestLog

ADVICE = "if it allows fewer alternatives, set http.top_logprobs to their number"


def at_most_five(body: dict[str, Any], request: Any) -> Canned:
    if body["top_logprobs"] > 5:
        message = "Requested sample logprobs of 20, which is greater than max allowed: 5"
        return Canned(json.dumps({"error": {"message": message}}).encode(), 400)
    return ok(choice_answer(("A", -0.1), ("B", -2.5)))


def test_a_server_with_five() -> None:
    """Its refusal names the setting, which then is sent."""
    with pytest.raises(UnansweredError, match=f"max allowed: 5: {ADVICE}"):
        choose_a_or_b(CannedLM(at_most_five))
    assert choose_a_or_b(CannedLM(at_most_five, HttpConfig(top_logprobs=5))) == [-0.1, -2.5]


@pytest.mark.parametrize(
    "message", ["the context has 20 tokens too many", "this model does not support logprobs"]
)
def test_other_refusals_have_no_such_advice(message: str) -> None:
    body = json.dumps({"error": {"message": message}}).encode()
    with pytest.raises(UnansweredError) as refusal:
        choose_a_or_b(CannedLM(lambda *_: Canned(body, 400)))
    assert str(refusal.value).endswith(message)


@pytest.mark.parametrize("number", [1, 21])
def test_numbers_that_cannot_be(number: int) -> None:
    with pytest.raises(ValidationError):
        HttpConfig(top_logprobs=number)


def test_another_number_is_another_request(tmp_path: Path) -> None:
    """Other alternatives may be listed: neither the log nor the provenance mixes the two."""
    log = RequestLog(tmp_path / "log.sqlite")
    for config, requests in ((HttpConfig(), 1), (HttpConfig(top_logprobs=5), 1)):
        for _ in range(2):
            lm = CannedLM(lambda *_: ok(choice_answer(("A", -0.1), ("B", -2.5))), config)
            choose_a_or_b(CachedLM(lm, log))
            assert lm.requests == requests
            requests = 0
    assert HttpConfig().answer_settings() == {}
    assert HttpConfig(top_logprobs=5).answer_settings() == {"http.top_logprobs": "5"}

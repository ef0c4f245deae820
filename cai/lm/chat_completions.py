"""The OpenAI chat-completions format: validation and parsing of answers, token estimates."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

import httpx2 as httpx

from cai.errors import TransientError, UnansweredError
from cai.lm.base import Sample, estimate_prompt_tokens
from cai.records import Chat


def parse_answer(response: httpx.Response, url: str) -> dict[str, Any]:
    """The answer's JSON, with at least one choice that holds a message.

    Raises:
        TransientError: the answer is malformed.
    """
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        raise TransientError(f"{url}: the answer is not JSON") from None
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise TransientError(f"{url}: the answer holds no choice")
    if not isinstance(choices[0].get("message"), dict):
        raise TransientError(f"{url}: the answer holds no message")
    valid: dict[str, Any] = answer
    return valid


def parse_sample(answer: dict[str, Any], chat: Chat, allow: Collection[str], url: str) -> Sample:
    """The reply with its token counts, which are estimated where the server gives none.

    Args:
        allow: finish reasons that are accepted although the reply is cut.

    Raises:
        UnansweredError: the reply is cut, or has no text.
    """
    choice = answer["choices"][0]
    reason, text = choice.get("finish_reason"), choice["message"].get("content")
    is_cut = reason in ("length", "content_filter")
    if is_cut and reason not in allow:
        raise UnansweredError(f"{url}: the reply ended by {reason}, which http.allow does not list")
    if not isinstance(text, str):
        raise UnansweredError(f"{url}: the reply has no text (finish_reason {reason})")
    usage = answer.get("usage") or {}
    prompt_tokens = usage.get("prompt_tokens") or estimate_prompt_tokens(
        message.content for message in chat
    )
    return Sample(
        text=text,
        finished=not is_cut,
        prompt_tokens=int(prompt_tokens),
        completion_tokens=int(usage.get("completion_tokens") or math.ceil(len(text) / 4)),
    )


def estimate_tokens(body: dict[str, Any]) -> int:
    """Tokens to charge before a call's usage is known: prompt, and a reply of maximal length."""
    prompt_tokens = estimate_prompt_tokens(message["content"] for message in body["messages"])
    return prompt_tokens + int(body.get("max_tokens", 0))


def option_logprobs(answer: dict[str, Any], choices: Sequence[str]) -> list[float] | None:
    """log P of each option among the first token's alternatives, in nats.

    Spellings with spaces, quotes or brackets are summed. An option that is not listed gets the
    log P of the least likely alternative, an upper bound: a label may come out less confident than
    the model was, never more.

    Returns:
        None when no option is listed.

    Raises:
        UnansweredError: the server gives no log-probabilities.
    """
    try:
        alternatives = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        logps = [
            (str(entry["token"]).strip(" \t\n\"'()*"), float(entry["logprob"]))
            for entry in alternatives
        ]
    except (KeyError, TypeError, IndexError, ValueError):
        raise UnansweredError(
            "the answer has no log-probabilities: the server must support logprobs and top_logprobs"
        ) from None
    scores = [_logsumexp([logp for token, logp in logps if token == choice]) for choice in choices]
    if not any(map(math.isfinite, scores)):
        return None
    least = min(logp for _, logp in logps)
    return [score if math.isfinite(score) else least for score in scores]


def _logsumexp(logps: Sequence[float]) -> float:
    top = max(logps, default=-math.inf)
    if not math.isfinite(top):
        return -math.inf
    return top + math.log(sum(math.exp(logp - top) for logp in logps))


def error_message(response: httpx.Response, key: str | None) -> str:
    """The server's error message on one line, with the API key masked."""
    text = response.text[:2000]
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text
    line = " ".join(str(message).split())[:200]
    return line.replace(key, "***") if key else line

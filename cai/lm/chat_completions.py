"""The OpenAI chat-completions format: the one check of an answer at the border, and its parsing.

`parse_answer` checks everything that is used later. Behind it no field has another type, no number
is out of its range, and no text holds half a surrogate pair.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

from cai.errors import TransientError
from cai.lm.base import RefusedAnswerError, Sample, Usage, estimate_prompt_tokens
from cai.lm.body import MalformedAnswerError
from cai.modeling.thoughts import end_of_thought, opened_tag, split_thoughts
from cai.records import Chat

FINISHED = frozenset({"stop", "eos", "eos_token"})
"""Finish reasons of replies that the model ended itself."""
LENGTH_REASONS = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
MISSING = "missing"
"""The finish reason of an answer that names none."""
MAX_USAGE = 10_000_000
"""Tokens of one answer; a larger count is not one."""
LOGPROB_ROUNDING = 0.1
"""Nats above 0 that a server which computes in bfloat16 may report for a certain token."""
IMPOSSIBLE_LOGPROB = -100.0
"""Nats. Below this a log-probability stands for zero, as -inf and -9999 do: not for a number that
could be compared with others. Such a token counts as not listed."""
AROUND_OPTIONS = " \t\r\n\"'()*"
"""What a judge may write around an option."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARKS = str.maketrans({"\u0120": " ", "\u2581": " ", "\u010a": "\n", "\u0109": "\t"})
"""Ġ, ▁, Ċ and ĉ: how tokenizers write a space, a line break and a tab."""


class Alternative(NamedTuple):
    """A token that the model might have chosen."""

    token: str
    logprob: float
    """Nats, at most 0."""


class Answer(NamedTuple):
    """A valid answer."""

    text: str | None
    finish_reason: str
    """In lower case; one word for the token limit."""
    refusal: str | None
    thought: str | None
    """What the server gives apart from the reply."""
    alternatives: tuple[Alternative, ...] | None
    """Of the first token; None: the answer has no usable log-probabilities."""
    reply_alternatives: tuple[Alternative, ...] | None
    """Of the first word of the reply, after a thought; None: there are none."""
    prompt_tokens: int | None
    completion_tokens: int | None
    body: bytes
    """As the server sent it: unlike the texts, it may hold a secret."""


# ---- the border ----


Clean = Callable[[str], str]
"""A text of the server -> the same without secrets."""


def parse_answer(data: bytes, url: str, clean: Clean = str) -> Answer:
    """The answer of a body.

    Args:
        clean: applied to every text before it is cut or changed in another way.

    Raises:
        MalformedAnswerError: it is not JSON, or holds no choice with a message.
        TransientError: it is an error object for a busy server.
    """
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedAnswerError(f"{url}: the answer is not JSON") from None
    usage = _parse_usage(answer.get("usage")) if isinstance(answer, dict) else (None, None)
    try:
        choice = _first_choice(answer, url, clean)
    except MalformedAnswerError as error:
        if usage[0] is not None:
            error.usage = (usage[0], usage[1] or 0)
        raise
    message = choice["message"]
    refusal = message.get("refusal")
    text = _parse_content(message.get("content"), clean)
    thought = message.get("reasoning_content") or message.get("reasoning")
    return Answer(
        text=text,
        finish_reason=_parse_finish_reason(choice.get("finish_reason"), clean),
        refusal=clean(clean_text(refusal)) if isinstance(refusal, str) and refusal else None,
        thought=clean(clean_text(thought)) if isinstance(thought, str) and thought else None,
        alternatives=_parse_alternatives(_token_entries(choice.get("logprobs"))),
        reply_alternatives=_parse_alternatives(
            _after_thought(_token_entries(choice.get("logprobs")), text)
        ),
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
        body=data,
    )


def clean_text(text: str) -> str:
    """`text` with halves of surrogate pairs replaced: no file can hold them."""
    return _SURROGATE.sub("\ufffd", text)


def _first_choice(answer: Any, url: str, clean: Clean) -> dict[str, Any]:
    """The first choice, which has a message."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        words = _error_words(answer, clean)
        if words is None:
            raise MalformedAnswerError(f"{url}: the answer holds no choice")
        code = answer["error"].get("code") if isinstance(answer["error"], dict) else None
        kind = TransientError if code in (429, 500, 502, 503, 529) else MalformedAnswerError
        raise kind(f"{url}: the answer is an error: {words}")
    choice: dict[str, Any] = choices[0]
    if not isinstance(choice.get("message"), dict):
        raise MalformedAnswerError(f"{url}: the answer holds no message")
    return choice


def _parse_content(content: Any, clean: Clean) -> str | None:
    """The text, also when it is given in parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        if len(parts) < len(content) or not all(isinstance(part, str) for part in parts):
            return None
        content = "".join(map(str, parts)) if parts else None
    return clean(clean_text(content)) if isinstance(content, str) else None


def _parse_finish_reason(reason: Any, clean: Clean) -> str:
    if not isinstance(reason, str) or not reason:
        return MISSING
    reason = " ".join(clean(clean_text(reason)).lower().split())[:40]
    return "length" if reason in LENGTH_REASONS else reason


def _parse_usage(usage: Any) -> tuple[int | None, int | None]:
    """(prompt tokens, completion tokens); None where the server gives no possible count."""
    if not isinstance(usage, dict):
        return None, None
    return _parse_count(usage.get("prompt_tokens")), _parse_count(usage.get("completion_tokens"))


def _parse_count(count: Any) -> int | None:
    """A positive count; some servers say 0 for "not counted"."""
    if isinstance(count, bool) or not isinstance(count, (int, float)):
        return None
    return int(count) if 1 <= count <= MAX_USAGE else None


def _token_entries(logprobs: Any) -> list[dict[str, Any]]:
    """The reply's tokens with their alternatives."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = content if isinstance(content, list) else []
    return list(itertools.takewhile(lambda entry: isinstance(entry, dict), entries))


def _after_thought(tokens: list[dict[str, Any]], reply: str | None) -> list[dict[str, Any]]:
    """The tokens from the first word of the reply. Empty if the thought has no end.

    Some servers list the tokens of the thought too, others those of the reply alone.
    """
    texts = [_spelling(str(entry.get("token", ""))) for entry in tokens]
    joined = "".join(texts)
    end = end_of_thought(joined)
    if end is None:
        if opened_tag(joined) or not (reply or "").strip():
            return []
        end = 0 if joined.strip().startswith((reply or "").strip()) else len(joined)
    position = 0
    for index, text in enumerate(texts):
        if position >= end and text.strip(AROUND_OPTIONS):
            return tokens[index:]
        position += len(text)
    return []


def _parse_alternatives(tokens: list[dict[str, Any]]) -> tuple[Alternative, ...] | None:
    """The first token's alternatives with a probability above zero.

    None as soon as one entry is not a token with a log-probability, or all of them together are
    more than certain: then none can be relied on.
    """
    entries = tokens[0].get("top_logprobs") if tokens else None
    if not isinstance(entries, list) or not entries:
        return None
    alternatives = []
    for entry in entries:
        alternative = _parse_alternative(entry)
        if alternative is None:
            return None
        if alternative.logprob >= IMPOSSIBLE_LOGPROB:
            alternatives.append(alternative)
    if total_probability(alternatives) > math.exp(LOGPROB_ROUNDING):
        return None
    return tuple(alternatives)


def _parse_alternative(entry: Any) -> Alternative | None:
    if not isinstance(entry, dict):
        return None
    token, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(token, str) or isinstance(logprob, bool):
        return None
    if not isinstance(logprob, (int, float)) or not logprob <= LOGPROB_ROUNDING:  # also NaN
        return None
    return Alternative(_spelling(token), min(float(max(logprob, -1e300)), 0.0))


def total_probability(alternatives: Sequence[Alternative]) -> float:
    return math.fsum(math.exp(entry.logprob) for entry in alternatives)


def _spelling(token: str) -> str:
    """A token as text: `ĠA`, `▁A` and `<0x41>` are " A", " A" and "A"."""
    text = _BYTE_TOKEN.sub(lambda match: chr(int(match.group(1), 16)), token)
    return clean_text(text.translate(_SPACE_MARKS))


# ---- replies ----


def parse_sample(answer: Answer, chat: Chat, allow: Collection[str], url: str) -> Sample:
    """The reply with its token counts, which are estimated where the server gives none.

    Args:
        allow: finish reasons that are accepted although the reply is not whole.

    Raises:
        RefusedAnswerError: the reply is not whole, or has no text but its thoughts.
    """
    usage = usage_of(answer, chat)
    reason = answer.finish_reason
    reply = split_thoughts(answer.text or "")
    text, is_closed = None if answer.text is None else reply.text, reply.is_closed
    thoughts = [thought for thought in (answer.thought, reply.thought) if thought]
    if reason not in FINISHED and reason not in allow:
        raise RefusedAnswerError(
            f"{url}: {ended_by(reason)}, which http.allow does not list",
            usage,
            finish_reason=reason,
            text=text,
        )
    if text is None:
        problem = f"the reply has no text (finish_reason {reason})"
        if answer.refusal:
            problem = f"the server refused: {' '.join(answer.refusal.split())[:100]}"
        raise RefusedAnswerError(f"{url}: {problem}", usage)
    if not is_closed:
        raise RefusedAnswerError(
            f"{url}: the reply ends within its thoughts (<think> without an end): raise the token "
            "limit, or turn the model's thinking off (MODEL?thinking=off)",
            usage,
        )
    return Sample(
        text=text,
        finished=reason in FINISHED,
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
        thought="\n".join(thoughts) or None,
    )


def ended_by(reason: str) -> str:
    """`the reply ended by length`."""
    return "the reply has no finish_reason" if reason == MISSING else f"the reply ended by {reason}"


def usage_of(answer: Answer, chat: Chat) -> Usage:
    """What the server counted, estimated where it did not."""
    prompt_tokens = answer.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = estimate_prompt_tokens(message.content for message in chat)
    completion_tokens = answer.completion_tokens
    if completion_tokens is None:
        completion_tokens = max(1, math.ceil(len(answer.text or "") / 4))
    return prompt_tokens, completion_tokens


def estimate_tokens(body: dict[str, Any]) -> Usage:
    """Tokens to reserve before a call's usage is known: prompt, and a reply of maximal length."""
    prompt_tokens = estimate_prompt_tokens(message["content"] for message in body["messages"])
    return prompt_tokens, int(body.get("max_tokens", 0))


# ---- requests ----


def thinking_fields(mode: Literal["on", "off"] | None) -> dict[str, Any]:
    """What asks vLLM, SGLang and llama.cpp to let a model think, or not: variables of its chat
    template, which a template without them ignores.
    """
    if mode is None:
        return {}
    variables: dict[str, Any] = {"enable_thinking": mode == "on", "thinking": mode == "on"}
    if mode == "off":
        variables["reasoning_effort"] = "low"
    return {"chat_template_kwargs": variables}


# ---- errors ----


def error_message(data: bytes, clean: Clean = str) -> str:
    """The server's error message on one line, `clean` before it is cut."""
    text = clean_text(data.decode("utf-8", "replace"))
    try:
        words = _error_words(json.loads(text), clean)
    except (ValueError, RecursionError):
        words = None
    return words or " ".join(clean(text)[:2000].split())[:200]


def _error_words(answer: Any, clean: Clean) -> str | None:
    """The message of an error object, on one line; None: it is none."""
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str) or not message:
        return None
    return " ".join(clean(clean_text(message)).split())[:200]

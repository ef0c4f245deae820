"""The OpenAI chat-completions format: the one check of an answer at the border, and its parsing.

`parse_answer` checks everything that is used later. Behind it no field has another type, no number
is out of its range, and no text holds half a surrogate pair.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from cai.errors import TransientError
from cai.lm.base import RefusedAnswerError, Sample, Usage, estimate_prompt_tokens
from cai.lm.body import MalformedAnswerError
from cai.modeling.thoughts import cut_thoughts
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
MIN_REST = 1e-6
"""Least probability of what is not listed: sums of rounded numbers know no less."""
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
    alternatives: tuple[Alternative, ...] | None
    """Of the first token; None: the answer has no usable log-probabilities."""
    prompt_tokens: int | None
    completion_tokens: int | None


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
    return Answer(
        text=_parse_content(message.get("content"), clean),
        finish_reason=_parse_finish_reason(choice.get("finish_reason"), clean),
        refusal=clean(clean_text(refusal)) if isinstance(refusal, str) and refusal else None,
        alternatives=_parse_alternatives(choice.get("logprobs")),
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
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


def _parse_alternatives(logprobs: Any) -> tuple[Alternative, ...] | None:
    """The first token's alternatives with a probability above zero.

    None as soon as one entry is not a token with a log-probability, or all of them together are
    more than certain: then none can be relied on.
    """
    try:
        entries = logprobs["content"][0]["top_logprobs"]
    except (KeyError, TypeError, IndexError):
        return None
    if not isinstance(entries, list) or not entries:
        return None
    alternatives = []
    for entry in entries:
        alternative = _parse_alternative(entry)
        if alternative is None:
            return None
        if alternative.logprob >= IMPOSSIBLE_LOGPROB:
            alternatives.append(alternative)
    if _total_probability(alternatives) > math.exp(LOGPROB_ROUNDING):
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
    text, is_closed = (None, True) if answer.text is None else cut_thoughts(answer.text)
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
            "limit, or turn the model's thinking off",
            usage,
        )
    return Sample(
        text=text,
        finished=reason in FINISHED,
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
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


# ---- options ----


def option_logprobs(answer: Answer, choices: Sequence[str]) -> list[float] | None:
    """log P of each option among the first token's alternatives, in nats.

    Spellings with spaces, quotes or brackets are summed. Options that are not listed share what
    the listed alternatives leave: together they have at most log(1 - sum P). A label may come out
    less confident than the model was, never more.

    Returns:
        None when no option is listed. Also when one is missing, and the best of the others has no
        more than what is left, or less than a token that is no option: that says nothing about
        which is better.

    Raises:
        ValueError: the answer has no usable log-probabilities.
    """
    if answer.alternatives is None:
        raise ValueError("no usable log-probabilities")
    listed = [(entry.token.strip(" \t\r\n\"'()*"), entry.logprob) for entry in answer.alternatives]
    scores = [_logsumexp([logp for token, logp in listed if token == choice]) for choice in choices]
    best = max(scores)
    missing = sum(not math.isfinite(score) for score in scores)
    if not math.isfinite(best):
        return None
    if not missing:
        return scores
    rest = max(1.0 - _total_probability(answer.alternatives), MIN_REST)
    if best <= math.log(rest) or best < max(logp for _, logp in listed):
        return None
    bound = math.log(rest / missing)
    return [score if math.isfinite(score) else bound for score in scores]


def begins_with_thought(answer: Answer) -> bool:
    """Whether the most likely first token opens a <think> block."""
    likely = max(answer.alternatives or (), key=lambda entry: entry.logprob, default=None)
    return likely is not None and likely.token.strip().lower() in ("<think>", "<thinking>")


def _total_probability(alternatives: Sequence[Alternative]) -> float:
    return math.fsum(math.exp(entry.logprob) for entry in alternatives)


def _logsumexp(logps: Sequence[float]) -> float:
    top = max(logps, default=-math.inf)
    if not math.isfinite(top):
        return -math.inf
    return top + math.log(sum(math.exp(logp - top) for logp in logps))


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

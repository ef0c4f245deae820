"""Requests to the reward server: their validation, and the JSON objects that answer them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cai.data.readers import chat_from
from cai.errors import StoreError
from cai.integrations.reward_batching import RewardParts, sum_parts
from cai.probability import sigmoid
from cai.records import Prompt
from cai.store import parse_row

ScoreRow = tuple[Prompt, str]
"""A prompt, and the reply to score."""


@dataclass(frozen=True)
class Limits:
    """Limits of a request, of the batches and of the queue."""

    max_body_bytes: int = 8 << 20
    max_rows: int = 512
    """Rows of one request."""
    max_chars: int = 200_000
    """Characters of a reply, or of all turns of a chat."""
    batch_size: int = 64
    """Rows scored together."""
    max_queued: int = 100_000
    """Rows that wait to be scored; a request with more waits until there is room in the queue."""
    batch_wait_s: float = 0.005
    """Seconds that the first row of a batch waits for others."""
    timeout_s: float = 120.0
    """Seconds until a request gets its rewards, or status 503."""


class RequestError(Exception):
    """A request that is answered with an error status and a one-line message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        RequestError: (400) it is not JSON, or not an object.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise RequestError(400, "the body must be a JSON object")
    return data


def score_rows(data: dict[str, Any], limits: Limits) -> list[ScoreRow]:
    """The rows of a request to /score.

    Raises:
        RequestError: (400) a row is wrong; (413) too many rows, or too long a text.
    """
    rows = data.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(400, "`rows` must be a list of objects")
    _check_row_count(len(rows), limits)
    return [_score_row(row, limits, f"rows.{index}") for index, row in enumerate(rows)]


def score_response(parts: Sequence[RewardParts]) -> dict[str, Any]:
    """Rewards and their parts by name, one number or null per row."""
    names = parts[0] if parts else ()
    table = {name: [_finite_or_none(row[name]) for row in parts] for name in names}
    return {"rewards": sum_parts(table), "parts": table}


def openrlhf_rows(
    data: dict[str, Any], limits: Limits, end_texts: Sequence[str]
) -> list[ScoreRow | None]:
    """The rows of a request to /get_reward, as OpenRLHF sends it.

    A query is prompt and reply in one text; a label is JSON with `kind` and perhaps `chat`. None
    stands for a query that does not begin with its prompt: where its reply begins is unknown.

    Args:
        data: the request.
        limits: of the server.
        end_texts: texts of the special tokens to strip from the end of a reply.

    Raises:
        RequestError: (400) a row is wrong; (413) too many rows, or too long a text.
    """
    queries, prompts, labels = (data.get(key) or [] for key in ("query", "prompts", "labels"))
    lists = all(isinstance(values, list) for values in (queries, prompts, labels))
    if not lists or len(queries) != len(prompts):
        raise RequestError(400, "`query`, `prompts` and `labels` must be lists of the same length")
    _check_row_count(len(queries), limits)
    rows: list[ScoreRow | None] = []
    for index, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        if not isinstance(query, str) or not isinstance(prompt, str):
            raise RequestError(400, f"query.{index}: must be text")
        if not query.startswith(prompt):
            rows.append(None)
            continue
        label = _parse_label(labels[index] if index < len(labels) else None)
        row: dict[str, Any] = {"chat": label["chat"]} if label.get("chat") else {"prompt": prompt}
        row["kind"] = label.get("kind")
        row["response"] = strip_end_texts(query[len(prompt) :], end_texts)
        rows.append(_score_row(row, limits, f"query.{index}"))
    return rows


def openrlhf_response(parts: Sequence[RewardParts | None]) -> dict[str, Any]:
    """Rewards, scores in [0, 1] and logs of each part, as OpenRLHF expects them.

    The engine cannot leave a row out: an unknown reward is 0, and `cai_error` is 1 for its row.

    Args:
        parts: the parts of each row's reward; None for a row that could not be scored.
    """
    indices = [index for index, row in enumerate(parts) if row is not None]
    known = score_response([row for row in parts if row is not None])

    def for_all_rows(values: list[float | None]) -> list[float | None]:
        # not strict: a reward without any part has no values
        by_index = dict(zip(indices, values, strict=False))
        return [by_index.get(index) for index in range(len(parts))]

    totals = for_all_rows(known["rewards"])
    rewards = [reward or 0.0 for reward in totals]
    logs = {}
    for name, values in known["parts"].items():
        logs[name] = [value or 0.0 for value in for_all_rows(values)]
    logs["cai_error"] = [float(reward is None) for reward in totals]
    scores = [sigmoid(reward) for reward in rewards]
    return {"rewards": rewards, "scores": scores, "extra_logs": logs}


def strip_end_texts(text: str, end_texts: Sequence[str]) -> str:
    """A reply as `Renderer.text` gives it.

    The special tokens at its end and outer white space are removed.
    """
    text = text.strip()
    known = tuple(filter(None, end_texts))
    length = len(text)
    while suffix := next((end for end in known if text.endswith(end, 0, length)), None):
        length -= len(suffix)
    return text[:length].strip()


def _score_row(row: dict[str, Any], limits: Limits, location: str) -> ScoreRow:
    reply = row.get("response")
    if not isinstance(reply, str):
        raise RequestError(400, f"{location}: `response` must be text")
    prompt_keys = ("prompt", "chat", "messages")
    given = {key: row[key] for key in prompt_keys if row.get(key) is not None}
    try:
        fields = {"chat": chat_from(given, location), "kind": row.get("kind")}
        prompt = parse_row(fields, Prompt, location)
    except StoreError as error:
        raise RequestError(400, str(error)) from None
    chat_chars = sum(len(message.content) for message in prompt.chat)
    if max(len(reply), chat_chars) > limits.max_chars:
        raise RequestError(413, f"{location}: more than {limits.max_chars} characters")
    _check_unicode(reply, f"{location}: `response`")
    for turn in prompt.chat:
        _check_unicode(turn.content, f"{location}: `{next(iter(given))}`")
    return prompt, reply.strip()  # PPO scores stripped replies too


def _check_unicode(text: str, location: str) -> None:
    """Refuse lone surrogates: JSON can spell them, and no tokenizer takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{location} must be Unicode text, without lone surrogates"
        raise RequestError(400, message) from None


def _check_row_count(count: int, limits: Limits) -> None:
    if count > limits.max_rows:
        raise RequestError(413, f"{count} rows: at most {limits.max_rows} in one request")


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _parse_label(label: Any) -> dict[str, Any]:
    """A label's fields; none where it is not a JSON object."""
    try:
        fields = json.loads(label) if isinstance(label, str) else label
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}

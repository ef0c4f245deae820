"""Requests to the reward server: their validation, and the JSON objects that answer them."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cai.data.readers import chat_from
from cai.errors import StoreError
from cai.integrations.reward_batching import RewardParts, RewardTable
from cai.probability import sigmoid
from cai.records import Prompt
from cai.store import parse_row

NO_KIND = "the row has no kind, which the rubric needs"
NO_PROMPT = "the query does not begin with its prompt"
REASONS = {
    "pm": "prompt and reply do not fit the model's window, or the score is no finite number",
    "rubric": "the rubric gives no score for this reply",
    "direct": "the judge gave no rating",
}
"""Part of the reward -> the reason for which it is unknown."""
REPLY_PARTS = frozenset({"pm", "direct"})
"""Parts that score any reply, whatever the prompt's kind."""


class ScoreRow(NamedTuple):
    """A prompt, and the reply to score."""

    prompt: Prompt
    reply: str
    kind_given: bool = True
    """Whether the row says the prompt's kind, be it null: see `row_reward`."""


@dataclass(frozen=True)
class RowReward:
    """A row's reward and its parts, or the reason for which it is unknown."""

    reward: float | None
    parts: RewardParts
    reason: str | None


@dataclass(frozen=True)
class Limits:
    """Limits of a request, of the batches and of the queue."""

    max_body_bytes: int = 8 << 20
    max_bytes_in_flight: int = 128 << 20
    """Of the bodies of all requests that are being read or answered; one beyond it gets status 503,
    and may try again."""
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
    max_connections: int = 512
    head_timeout_s: float = 10.0
    """Seconds that a new connection has for its first request line and headers."""
    idle_timeout_s: float = 60.0
    """Seconds that a connection may wait before its next request."""
    body_timeout_s: float = 30.0
    """Seconds that the whole body of a request may take."""
    write_timeout_s: float = 30.0
    """Seconds in which a client has to take its answer."""
    drain_s: float = 25.0
    """Seconds that a server waits, when it stops, for the requests under way."""


class BytesInFlight:
    """The bytes of all bodies that are in memory, over all connections."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Inside, `count` bytes are counted.

        Raises:
            RequestError: (503) there is no room for them now.
        """
        if self.held and self.held + count > self.limit:
            raise RequestError(503, "too many bytes of requests in flight: retry later")
        self.held += count
        try:
            yield
        finally:
            self.held -= count


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


def row_reward(row: ScoreRow, parts: RewardParts) -> RowReward:
    """The sum of a row's parts; unknown where a part is.

    A row that leaves out its kind could be any: the rubric's part, and the reward, are unknown. A
    row whose kind is null says that the rubric does not apply: the reward is the sum of the other
    parts, if `pm` or `direct` is among them.
    """
    known = {name: _finite_or_none(value) for name, value in parts.items()}
    missing = [f"{name}: {REASONS.get(name, 'no value')}" for name in known if known[name] is None]
    if "rubric" in known and row.prompt.kind is None:
        known["rubric"] = None
        missing = [reason for reason in missing if not reason.startswith("rubric: ")]
        if not row.kind_given or not REPLY_PARTS & known.keys():
            missing.append(f"rubric: {NO_KIND}")
    if not known:
        missing.append("the reward has no part")
    if missing:
        return RowReward(None, known, "; ".join(missing))
    return RowReward(sum(value for value in known.values() if value is not None), known, None)


def score_response(rows: Sequence[ScoreRow], parts: Sequence[RewardParts]) -> dict[str, Any]:
    """Rewards, their parts by name, and the reasons of unknown rewards."""
    results = [row_reward(row, values) for row, values in zip(rows, parts, strict=True)]
    return {
        "rewards": [result.reward for result in results],
        "parts": _parts_table(results),
        "reasons": [result.reason for result in results],
    }


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
        row |= {"kind": label["kind"]} if "kind" in label else {}
        row["response"] = strip_end_texts(query[len(prompt) :], end_texts)
        rows.append(_score_row(row, limits, f"query.{index}"))
    return rows


def openrlhf_response(
    rows: Sequence[ScoreRow | None], parts: Sequence[RewardParts]
) -> dict[str, Any]:
    """Rewards, scores in [0, 1] and logs of each part; null where unknown, with the reason.

    Args:
        rows: as `openrlhf_rows` returns them.
        parts: the parts of the reward of each row that is not None.
    """
    remaining = iter(parts)
    results = [
        RowReward(None, {}, NO_PROMPT) if row is None else row_reward(row, next(remaining))
        for row in rows
    ]
    rewards = [result.reward for result in results]
    logs = _parts_table(results)
    logs["cai_error"] = [float(reward is None) for reward in rewards]
    return {
        "rewards": rewards,
        "scores": [None if reward is None else sigmoid(reward) for reward in rewards],
        "extra_logs": logs,
        "reasons": [result.reason for result in results],
    }


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
    # stripped, as PPO scores replies
    return ScoreRow(prompt, reply.strip(), kind_given="kind" in row)


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


def _parts_table(results: Sequence[RowReward]) -> RewardTable:
    names = dict.fromkeys(name for result in results for name in result.parts)
    return {name: [result.parts.get(name) for result in results] for name in names}


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _parse_label(label: Any) -> dict[str, Any]:
    """A label's fields; none where it is not a JSON object."""
    try:
        fields = json.loads(label) if isinstance(label, str) else label
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}

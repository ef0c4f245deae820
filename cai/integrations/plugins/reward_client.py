"""The client of `cai serve-reward` that the training plug-ins share. Standard library only.

`plugin_source` puts this text into each plug-in that it writes: engines load a plug-in by its path,
often on machines without cai.
"""

import http.client
import json
import math
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from typing import Any, NamedTuple

TIMEOUT_S = 180
WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pauses between tries of a request that failed for a passing reason."""
RETRY_FOR_S = 300
"""A request and its repetitions end within this time, unless the engine's limit is shorter."""
PASSING = (408, 429, 502, 503, 504)
OF_A_ROW = (400, 413, 500)
"""Statuses that one row of a request can cause."""
MAX_ROWS = 256
"""Rows of one request; the server takes 512."""
RECENT = 512
"""Rewards that the share of failures is taken of."""
MIN_ROWS = 20
"""A share of failures is looked at from this number of rows on."""
MAX_FAILURES = float(os.environ.get("CAI_REWARD_MAX_FAILURES") or 0.2)
"""The share of unknown rewards among recent ones at which training should stop."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token goes to no other address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Opener:
    """Opens addresses directly. Each process builds it: verl pickles a function's globals."""

    def __init__(self) -> None:
        self.opener: urllib.request.OpenerDirector | None = None

    def __reduce__(self) -> Any:
        return _Opener, ()

    def open(self, request: urllib.request.Request, timeout: float) -> Any:
        if self.opener is None:
            handlers = (urllib.request.ProxyHandler({}), _NoRedirects())
            self.opener = urllib.request.build_opener(*handlers)
        return self.opener.open(request, timeout=timeout)


_OPENER = _Opener()


class RequestFailure(Exception):
    """A request without an answer, with a reason that quotes neither token nor text."""


class PassingFailure(RequestFailure):
    """One that may pass by itself."""


class RowFailure(RequestFailure):
    """A request that one of its rows may have spoilt: the others may still have a reward."""


class Reward(NamedTuple):
    """The reward of a reply and its parts by name; None where unknown, with the reason."""

    value: float | None
    parts: dict[str, float | None]
    reason: str | None


class Server(NamedTuple):
    """Where rewards come from, and how long an answer may take."""

    url: Any = None
    """None: CAI_REWARD_URL."""
    token: Any = None
    """None: CAI_REWARD_TOKEN."""
    within_s: float = RETRY_FOR_S
    """Seconds for a request and its repetitions."""


SERVER = Server()


class FailureCount:
    """Recent failures of this process; its methods may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.failures: deque[bool] = deque(maxlen=RECENT)
        self.reasons: set[str] = set()

    def __reduce__(self) -> Any:
        return FailureCount, ()

    def record(self, rewards: list[Reward]) -> str | None:
        """Count each row's failure or success, and print each new reason once.

        Returns:
            What to say when the share of failures is too high, or None.
        """
        reasons = [reward.reason for reward in rewards]
        with self.lock:
            self.failures.extend(reason is not None for reason in reasons)
            failed, count = sum(self.failures), len(self.failures)
            for reason in {reason for reason in reasons if reason is not None}:
                if reason not in self.reasons and len(self.reasons) < 20:
                    self.reasons.add(reason)
                    print(f"cai: a reward is unknown: {reason}", file=sys.stderr, flush=True)
        if count < MIN_ROWS or failed <= MAX_FAILURES * count:
            return None
        last = next((reason for reason in reversed(reasons) if reason is not None), "")
        share = f"{failed} of the last {count} rewards are unknown (limit {MAX_FAILURES:.0%})"
        return f"cai: {share}: {last}"


FAILURES = FailureCount()


def rewards(prompts: list[Any], replies: list[Any], server: Server = SERVER) -> list[Reward]:
    """The reward of each reply to its prompt. It never raises: what is unknown has a reason.

    Args:
        prompts: for each reply a dictionary with `chat`, as turns or as their JSON, and `kind`;
            without `kind` where the data set has no such column.
        replies: texts.
        server: where they come from.
    """
    pairs = list(zip(prompts, replies))  # noqa: B905  # engines pass lists of one length
    known: list[Reward] = []
    for start in range(0, len(pairs), MAX_ROWS):
        known += _score(pairs[start : start + MAX_ROWS], server)
    return known


def _score(pairs: list[tuple[Any, Any]], server: Server) -> list[Reward]:
    try:
        rows = [_row(prompt, reply) for prompt, reply in pairs]
        answer = post("/score", {"rows": rows}, server)
        return parse_answer(answer, "parts", len(pairs))
    except RequestFailure as error:
        if isinstance(error, RowFailure) and len(pairs) > 1:
            half = len(pairs) // 2
            parts = (pairs[:half], pairs[half:])
            return [reward for part in parts for reward in _score(part, server)]
        reason = str(error)
    except Exception as error:
        reason = f"no row, or an answer of another form: {type(error).__name__}"
    return [Reward(None, {}, reason)] * len(pairs)


def decoded_rewards(
    queries: list[Any], prompts: list[Any], labels: list[Any], server: Server = SERVER
) -> list[Reward]:
    """The rewards of decoded texts, in which prompt and reply are one. It never raises.

    Args:
        queries: prompt and reply with their special tokens.
        prompts: the part of each query that is not the reply.
        labels: JSON with the `kind` of each prompt, and its `chat`.
        server: where they come from.
    """
    try:
        body = {"query": queries, "prompts": prompts, "labels": [_label(x) for x in labels]}
        return parse_answer(post("/get_reward", body, server), "extra_logs", len(queries))
    except RequestFailure as error:
        reason = str(error)
    except Exception as error:
        reason = f"no row, or an answer of another form: {type(error).__name__}"
    return [Reward(None, {}, reason)] * len(queries)


def ranks(prompt: Any, replies: list[Any], server: Server = SERVER) -> list[Reward]:
    """Each reply's share of won comparisons with the other replies. It never raises.

    Args:
        prompt: a dictionary with `chat` and `kind`, as for `rewards`.
        replies: all replies to it.
        server: where the shares come from.
    """
    try:
        row = _row(prompt, "")
        body = {"chat": row["chat"], "kind": row.get("kind"), "responses": list(replies)}
        return parse_answer(post("/rank", body, server), "parts", len(replies))
    except RequestFailure as error:
        reason = str(error)
    except Exception as error:
        reason = f"no row, or an answer of another form: {type(error).__name__}"
    return [Reward(None, {}, reason)] * len(replies)


def parse_answer(answer: Any, table: str, count: int) -> list[Reward]:
    """The rows of the server's answer.

    Raises:
        Exception: the answer has another form.
    """
    parts = {name: column for name, column in answer[table].items() if name != "cai_error"}
    columns = [answer["rewards"], answer["reasons"], *parts.values()]
    if any(not isinstance(column, list) or len(column) != count for column in columns):
        raise ValueError("rows are missing")
    return [
        _reward(value, {name: column[i] for name, column in parts.items()}, reason)
        for i, (value, reason) in enumerate(zip(*columns[:2]))  # noqa: B905  # same length
    ]


def _reward(value: Any, parts: dict[str, Any], reason: Any) -> Reward:
    known = {name: None if part is None else float(part) for name, part in parts.items()}
    if value is not None and math.isfinite(float(value)):
        return Reward(float(value), known, None)
    return Reward(None, known, str(reason or "the server gives no reason"))


def _row(prompt: Any, reply: Any) -> dict[str, Any]:
    chat = prompt.get("chat")
    row = {"response": str(reply), "chat": json.loads(chat) if isinstance(chat, str) else chat}
    return row | {"kind": prompt["kind"]} if "kind" in prompt else row


def _label(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label)


def post(path: str, body: dict[str, Any], server: Server = SERVER) -> Any:
    """The server's answer; passing failures are tried again.

    Raises:
        RequestFailure: no answer.
    """
    url = str(server.url or os.environ.get("CAI_REWARD_URL") or "http://127.0.0.1:8900")
    secret = str(server.token or os.environ.get("CAI_REWARD_TOKEN") or "")
    if not (secret.isascii() and secret.isprintable() and secret == secret.strip()):
        raise RequestFailure("CAI_REWARD_TOKEN has a line break, a space at an end, or no ASCII")
    headers = {"content-type": "application/json", "authorization": "Bearer " + secret}
    request = urllib.request.Request(  # noqa: S310  # the user's address
        url.rstrip("/") + path, json.dumps(body).encode(), headers
    )
    give_up = time.monotonic() + server.within_s
    for wait in (*WAITS_S, None):
        try:
            return _post_once(request, min(TIMEOUT_S, give_up - time.monotonic()))
        except PassingFailure:
            if wait is None or time.monotonic() + wait >= give_up:
                raise
            time.sleep(wait)
    return None  # not reached: the last try returns or raises


def _post_once(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        failure = PassingFailure if error.code in PASSING else RequestFailure
        if error.code in OF_A_ROW:
            failure = RowFailure
        raise failure(_status_reason(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise PassingFailure(f"no answer from the server: {type(error).__name__}") from None
    except Exception as error:
        raise RequestFailure(f"no request, or no JSON answer: {type(error).__name__}") from None


def _status_reason(error: urllib.error.HTTPError) -> str:
    """The status, and the server's own line on it where there is one."""
    try:
        with error:
            line = str(json.loads(error.read(10_000))["error"])
    except Exception:
        line = ""
    return f"status {error.code} {line}".strip()[:300]

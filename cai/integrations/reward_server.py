"""The HTTP server of a run's reward, for trainers that run in other environments.

    POST /score        {"rows": [{"prompt" or "chat", "response", "kind"?}]}
                       -> {"rewards": [number or null], "parts": {name: [number or null]}}
    POST /get_reward   {"query": [...], "prompts": [...], "labels": [...]}    (OpenRLHF)
                       -> {"rewards", "scores", "extra_logs"}
    GET  /health       -> {"ok": true}

Every POST needs the token. Bodies, rows and texts have limits. Requests that wait at the same time
are scored together, by one thread that runs the model. No text of a request is ever logged.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Full
from typing import Any

from cai.errors import CaiError
from cai.integrations.reward_batching import BatchScorer, Job, RewardParts, ScoreTexts
from cai.integrations.reward_requests import (
    Limits,
    RequestError,
    ScoreRow,
    openrlhf_response,
    openrlhf_rows,
    parse_body,
    score_response,
    score_rows,
)

TOKEN_VARIABLE = "CAI_REWARD_TOKEN"  # noqa: S105  # the name of an environment variable
MAX_LENGTH_DIGITS = 18
"""Digits of a content-length. A longer one is refused unparsed: `int` raises on thousands."""
UNKNOWN_PATH = "POST to /score or /get_reward"


class RewardServer(ThreadingHTTPServer):
    """A server that runs until `shutdown`. Its port is `server_address[1]`.

    Args:
        address: (host, port); port 0 lets the system choose one.
        score: the reward.
        token: the bearer token that every POST must send.
        limits: of requests, batches and the queue.
        end_texts: texts of the special tokens that end or pad a reply; engines that send whole
            token rows leave them in.

    Raises:
        ValueError: the token is empty.
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int],
        score: ScoreTexts,
        token: str,
        limits: Limits | None = None,
        end_texts: Sequence[str] = (),
    ) -> None:
        if not token:
            raise ValueError("a reward server needs a token")
        self.token = token
        self.limits = limits or Limits()
        self.end_texts = tuple(end_texts)
        self.scorer = BatchScorer(
            score,
            batch_size=self.limits.batch_size,
            batch_wait_s=self.limits.batch_wait_s,
            max_queued=self.limits.max_queued,
        )
        super().__init__(address, _Handler)
        self.scorer.start()

    def rewards(self, rows: Sequence[ScoreRow]) -> list[RewardParts]:
        """The parts of each row's reward.

        Raises:
            RequestError: (503) not computed in time; (500) the reward failed.
        """
        jobs = [Job(prompt, reply) for prompt, reply in rows]
        deadline = time.monotonic() + self.limits.timeout_s

        def seconds_left() -> float:
            return max(0.0, deadline - time.monotonic())

        try:
            for job in jobs:
                self.scorer.jobs.put(job, timeout=seconds_left())
            return [job.result.result(timeout=seconds_left()) for job in jobs]
        except (TimeoutError, Full):
            message = "no rewards in time: send fewer rows, or retry later"
            raise RequestError(503, message) from None
        except CaiError as error:
            raise RequestError(500, str(error)) from None
        except Exception as error:
            raise RequestError(500, f"the reward failed: {type(error).__name__}") from None
        finally:
            for job in jobs:  # of a failed request: its other rows need no reward
                job.result.cancel()


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {"ok": True})
        else:
            self._send(404, {"error": UNKNOWN_PATH})

    def do_POST(self) -> None:
        try:
            body = self._read_body()
            self._authorize()
            answer = {"/score": self._score, "/get_reward": self._get_reward}.get(self.path)
            if answer is None:
                raise RequestError(404, UNKNOWN_PATH)
            self._send(200, answer(parse_body(body)))
        except RequestError as error:
            self._send(error.status, {"error": str(error)})

    def _score(self, data: dict[str, Any]) -> dict[str, Any]:
        return score_response(self.server.rewards(score_rows(data, self.server.limits)))

    def _get_reward(self, data: dict[str, Any]) -> dict[str, Any]:
        rows = openrlhf_rows(data, self.server.limits, self.server.end_texts)
        parts = iter(self.server.rewards([row for row in rows if row is not None]))
        return openrlhf_response([None if row is None else next(parts) for row in rows])

    def _read_body(self) -> bytes:
        """The whole body, before any answer: otherwise the connection breaks under the client."""
        length = self.headers.get("content-length", "")
        max_bytes = self.server.limits.max_body_bytes
        if not (length.isascii() and length.isdecimal()):
            self.close_connection = True
            raise RequestError(411, "a request needs a content-length")
        if len(length) > MAX_LENGTH_DIGITS or int(length) > max_bytes:
            self.close_connection = True
            raise RequestError(413, f"more than {max_bytes} bytes")
        return self.rfile.read(int(length))

    def _authorize(self) -> None:
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode()):
            raise RequestError(
                401,
                "wrong token: send Authorization: Bearer TOKEN, "
                f"the value of {TOKEN_VARIABLE} on the server",
            )

    def _send(self, status: int, payload: dict[str, Any]) -> None:
        data = json.dumps(payload).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: requests may be private."""

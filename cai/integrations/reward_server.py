"""A run's reward over HTTP, for trainers that live in environments of their own.

    POST /score        {"rows": [{"prompt" or "chat", "response", "kind"?}]} -> {"rewards": [number or null], "parts": {...}}
    POST /get_reward   {"query": [...], "prompts": [...], "labels": [...]} -> {"rewards", "scores", "extra_logs"}  (OpenRLHF)
    GET  /health       -> {"ok": true}

Each request needs the token, bodies and rows have limits, and requests that wait together are scored together: one thread owns
the model. Nothing of a request's text is ever logged.
"""

from __future__ import annotations

import hmac
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Full, Queue
from typing import Any

from cai.data.readers import chat_from
from cai.errors import CaiError, StoreError
from cai.probability import sigmoid
from cai.records import Prompt
from cai.store import parse_row

Table = dict[str, list[float | None]]
ScoreTexts = Callable[[Sequence[Prompt], Sequence[str]], Table]
"""(prompts, replies) -> part -> one value per reply; None: the part does not know."""
TOKEN = "CAI_REWARD_TOKEN"  # noqa: S105  # the variable's name
DIGITS = 18
"""Of a length in bytes: longer ones are refused unread, as Python reads no number of thousands of digits."""


@dataclass(frozen=True)
class Limits:
    """What a request may ask for."""

    body: int = 8 << 20
    """Bytes."""
    rows: int = 512
    text: int = 200_000
    """Characters of a reply, or of all turns of a chat."""
    batch: int = 64
    """Rows scored together."""
    waiting: int = 100_000
    """Rows that wait to be scored; more must wait to be let in."""
    wait: float = 0.005
    """Seconds that a row waits for others."""
    answer: float = 120.0
    """Seconds within which a request is answered, or told to come back."""


class Refused(Exception):
    """A request that gets an error status, and one line of why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Job:
    prompt: Prompt
    reply: str
    result: Future[dict[str, float | None]] = field(default_factory=Future)


class BatchScorer(threading.Thread):
    """The one thread that calls `score`, on rows gathered from all requests."""

    def __init__(self, score: ScoreTexts, limits: Limits) -> None:
        super().__init__(daemon=True, name="cai-scorer")
        self.score, self.limits = score, limits
        self.jobs: Queue[Job] = Queue(maxsize=limits.waiting)

    def run(self) -> None:
        while True:
            self._one_batch(self._gather())

    def _gather(self) -> list[Job]:
        """The next rows, without those that nobody waits for any more: under load, they would only hold up the others."""
        found: list[Job] = []
        until: float | None = None
        while len(found) < self.limits.batch:
            try:
                job = self.jobs.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except Empty:
                break
            if not job.result.cancelled():
                found.append(job)
                until = until or time.monotonic() + self.limits.wait
        return found

    def _one_batch(self, jobs: list[Job]) -> None:
        try:
            table = self.score([job.prompt for job in jobs], [job.reply for job in jobs])
            found = [{name: part[i] for name, part in table.items()} for i in range(len(jobs))]
        except Exception as error:  # the thread must outlive a bad batch
            if len(jobs) > 1:  # the fault may be one row's: it must not fail the requests of others
                for job in jobs:
                    if not job.result.cancelled():
                        self._one_batch([job])
            elif jobs[0].result.set_running_or_notify_cancel():
                jobs[0].result.set_exception(error)
            return
        for job, row in zip(jobs, found, strict=True):
            if job.result.set_running_or_notify_cancel():
                job.result.set_result(row)


class RewardServer(ThreadingHTTPServer):
    """Serves until `shutdown`. `server_address[1]` is the port, of the system's choice when 0 was asked for.

    Args:
        ends: texts of the special tokens that end or fill up a reply; engines that send whole token rows leave them in.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int],
        score: ScoreTexts,
        token: str,
        limits: Limits | None = None,
        ends: Sequence[str] = (),
    ) -> None:
        if not token:
            raise ValueError("a reward server needs a token")
        self.token, self.limits, self.ends = token, limits or Limits(), tuple(ends)
        self.scorer = BatchScorer(score, self.limits)
        super().__init__(address, _Handler)
        self.scorer.start()

    def rewards(self, rows: Sequence[tuple[Prompt, str]]) -> list[dict[str, float | None]]:
        """Parts of each row's reward.

        Raises:
            Refused: the reward could not be computed in time, or at all.
        """
        jobs = [Job(prompt, reply) for prompt, reply in rows]
        until = time.monotonic() + self.limits.answer
        try:
            for job in jobs:
                self.scorer.jobs.put(job, timeout=max(0.0, until - time.monotonic()))
            return [job.result.result(timeout=max(0.0, until - time.monotonic())) for job in jobs]
        except (TimeoutError, Full):
            raise Refused(503, "no answer in time: send fewer rows, or come back later") from None
        except CaiError as error:
            raise Refused(500, str(error)) from None
        except Exception as error:
            raise Refused(500, f"the reward failed: {type(error).__name__}") from None
        finally:
            for job in jobs:  # of a request that has failed: nobody waits for its other rows
                job.result.cancel()


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {"ok": True})
        else:
            self._answer(404, {"error": "POST to /score or /get_reward"})

    def do_POST(self) -> None:
        try:
            body = self._body()
            self._allow()
            work = {"/score": _score, "/get_reward": _get_reward}.get(self.path)
            if work is None:
                raise Refused(404, "POST to /score or /get_reward")
            self._answer(200, work(self.server, _json(body)))
        except Refused as refused:
            self._answer(refused.status, {"error": str(refused)})

    def _body(self) -> bytes:
        """All of it, before anything is answered: else the connection breaks under the sender."""
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()):
            self.close_connection = True
            raise Refused(411, "a request needs a content-length")
        if len(length) > DIGITS or int(length) > self.server.limits.body:
            self.close_connection = True
            raise Refused(413, f"more than {self.server.limits.body} bytes")
        return self.rfile.read(int(length))

    def _allow(self) -> None:
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode()):
            raise Refused(401, f"wrong token: send Authorization: Bearer, with what is in {TOKEN} where the server runs")

    def _answer(self, status: int, said: dict[str, Any]) -> None:
        data = json.dumps(said).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what people send is theirs."""


def _json(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise Refused(400, "the body must be a JSON object")
    return data


def _score(server: RewardServer, data: dict[str, Any]) -> dict[str, Any]:
    rows = data.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Refused(400, "`rows` must be a list of objects")
    _few(server, len(rows))
    return _summed(server.rewards([_row(server, row, f"rows.{i}") for i, row in enumerate(rows)]))


def _row(server: RewardServer, row: dict[str, Any], place: str) -> tuple[Prompt, str]:
    reply = row.get("response")
    if not isinstance(reply, str):
        raise Refused(400, f"{place}: `response` must be text")
    asked = {key: row[key] for key in ("prompt", "chat", "messages") if row.get(key) is not None}
    try:
        prompt = parse_row({"chat": chat_from(asked, place), "kind": row.get("kind")}, Prompt, place)
    except StoreError as error:
        raise Refused(400, str(error)) from None
    if len(reply) > server.limits.text or sum(len(m.content) for m in prompt.chat) > server.limits.text:
        raise Refused(413, f"{place}: more than {server.limits.text} characters")
    _unicode(reply, f"{place}: `response`")
    for turn in prompt.chat:
        _unicode(turn.content, f"{place}: `{next(iter(asked))}`")
    return prompt, reply.strip()  # as PPO reads it


def _unicode(text: str, place: str) -> None:
    """Half of a surrogate pair, which JSON can spell, is no text: no tokenizer would take it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(400, f"{place} must be Unicode text, without lone surrogates") from None


def _few(server: RewardServer, count: int) -> None:
    if count > server.limits.rows:
        raise Refused(413, f"{count} rows: at most {server.limits.rows} at once")


def _summed(parts: list[dict[str, float | None]]) -> dict[str, Any]:
    """Rewards and their parts, by name."""
    table = {name: [_finite(row[name]) for row in parts] for name in (parts[0] if parts else ())}
    return {"rewards": summed(table), "parts": table}


def summed(table: Table) -> list[float | None]:
    """The reward of each row: None where any of its parts is."""
    return [None if None in row else sum(x for x in row if x is not None) for row in zip(*table.values(), strict=True)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _get_reward(server: RewardServer, data: dict[str, Any]) -> dict[str, Any]:
    """OpenRLHF's contract: the query is prompt and reply in one text, the label carries {"kind", "chat"?} as JSON.

    The engine can leave no row out: an unknown reward is 0 there, and `cai_error` says so. Unknown is also the reward of a
    query that doesn't begin with its prompt: nobody can tell where its reply begins.
    """
    query, prompts, labels = (data.get(key) or [] for key in ("query", "prompts", "labels"))
    if not all(isinstance(part, list) for part in (query, prompts, labels)) or len(query) != len(prompts):
        raise Refused(400, "`query`, `prompts` and `labels` must be lists of the same length")
    _few(server, len(query))
    rows: dict[int, tuple[Prompt, str]] = {}
    for i, (whole, prompt) in enumerate(zip(query, prompts, strict=True)):
        if not isinstance(whole, str) or not isinstance(prompt, str):
            raise Refused(400, f"query.{i}: must be text")
        if not whole.startswith(prompt):
            continue
        about = _label(labels[i] if i < len(labels) else None)
        asked = {"chat": about["chat"]} if about.get("chat") else {"prompt": prompt}
        reply = without_ends(whole[len(prompt) :], server.ends)
        rows[i] = _row(server, {**asked, "kind": about.get("kind"), "response": reply}, f"query.{i}")
    found = _summed(server.rewards(list(rows.values())))

    def of_all(values: list[float | None]) -> list[float | None]:
        known = dict(zip(rows, values, strict=False))  # a reward without any part has no values
        return [known.get(i) for i in range(len(query))]

    totals = of_all(found["rewards"])
    unknown = [float(reward is None) for reward in totals]
    rewards = [reward or 0.0 for reward in totals]
    logs = {name: [value or 0.0 for value in of_all(part)] for name, part in found["parts"].items()}
    scores = [sigmoid(reward) for reward in rewards]
    return {"rewards": rewards, "scores": scores, "extra_logs": logs | {"cai_error": unknown}}


def without_ends(text: str, ends: Sequence[str]) -> str:
    """A reply as `Renderer.text` gives it: without the special tokens at its end, and without outer white space."""
    text, known = text.strip(), tuple(filter(None, ends))
    length = len(text)
    while found := next((end for end in known if text.endswith(end, 0, length)), None):
        length -= len(found)
    return text[:length].strip()


def _label(label: Any) -> dict[str, Any]:
    try:
        about = json.loads(label) if isinstance(label, str) else label
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}

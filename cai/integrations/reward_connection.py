"""One HTTP connection of the reward server: its requests are read with h11, and answered.

h11 frames the messages, so that bytes left over from one request are never read as the next. What
is not read in full ends with its connection. The token is checked before any byte of a body is
read, and each wait for the client has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import Sequence
from typing import Any, Protocol

import h11

from cai.integrations.group_requests import Group, parse_group, rank_response
from cai.integrations.reward_batching import RewardParts
from cai.integrations.reward_requests import (
    BytesInFlight,
    Limits,
    RequestError,
    ScoreRow,
    openrlhf_response,
    openrlhf_rows,
    parse_body,
    score_response,
    score_rows,
)

MAX_HEAD_BYTES = 1 << 14
READ_BYTES = 1 << 16
LINGER_S = 2.0
"""Seconds in which a client may still send a body that is not wanted. Closing at once would reset
the connection, and the client would not see the answer."""
RETRY_AFTER_S = "1"
UNKNOWN_PATH = "POST to /score, /get_reward or /rank"
WRONG_TOKEN = (
    "wrong token: send Authorization: Bearer TOKEN, "  # noqa: S105  # a message
    "the value of CAI_REWARD_TOKEN on the server"
)


class Service(Protocol):
    """What a connection needs of its server."""

    token: str
    limits: Limits
    end_texts: tuple[str, ...]
    stopping: bool
    bodies: BytesInFlight

    async def rewards(self, rows: Sequence[ScoreRow]) -> list[RewardParts]: ...

    async def shares(self, group: Group) -> list[float | None]: ...


class Connection:
    """A client's connection. `busy` is True from a request's head to the end of its answer."""

    def __init__(
        self, service: Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.service = service
        self.reader = reader
        self.writer = writer
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.busy = False

    async def serve(self) -> None:
        """Answer requests until one side closes the connection, or the client is too slow."""
        limits = self.service.limits
        with contextlib.suppress(OSError, h11.ProtocolError):  # TimeoutError is an OSError
            timeout_s = limits.head_timeout_s
            while await self._serve_request(timeout_s):
                self.http.start_next_cycle()
                timeout_s = limits.idle_timeout_s
            await self._close()

    async def _serve_request(self, timeout_s: float) -> bool:
        """Answer the next request; return whether another may follow on this connection."""
        request: h11.Request | None = None
        try:
            async with asyncio.timeout(timeout_s):
                event = await self._next_event()
            if not isinstance(event, h11.Request):
                return False
            request, self.busy = event, True
            status, payload = 200, await self._answer(request)
        except RequestError as error:
            status, payload = error.status, {"error": str(error)}
        except h11.RemoteProtocolError as error:
            status, payload = error.error_status_hint, {"error": "the request is not valid HTTP"}
        except RecursionError:
            status, payload = 400, {"error": "the body is nested too deeply"}
        except OSError:
            raise
        except Exception as error:
            status, payload = 500, {"error": f"the server failed: {type(error).__name__}"}
        self.busy = True
        reusable = self.http.their_state is h11.DONE and not self.service.stopping
        await self._send(status, payload, request, close=not reusable)
        self.busy = False
        return reusable and self.http.our_state is h11.DONE

    async def _answer(self, request: h11.Request) -> dict[str, Any]:
        path = request.target.decode("ascii", "replace")
        if request.method in (b"GET", b"HEAD"):
            self.http.next_event()  # the end of a request without body; one with it is closed
            if path != "/health":
                raise RequestError(404, UNKNOWN_PATH)
            return {"ok": True}
        self._authorize(request)
        answers = {"/score": self._score, "/get_reward": self._get_reward, "/rank": self._rank}
        answer = answers.get(path)
        if request.method != b"POST" or answer is None:
            raise RequestError(404, UNKNOWN_PATH)
        length = self._body_length(request)
        with self.service.bodies.hold(length):
            return await answer(parse_body(await self._read_body()))

    async def _score(self, data: dict[str, Any]) -> dict[str, Any]:
        rows = score_rows(data, self.service.limits)
        return score_response(rows, await self.service.rewards(rows))

    async def _get_reward(self, data: dict[str, Any]) -> dict[str, Any]:
        rows = openrlhf_rows(data, self.service.limits, self.service.end_texts)
        parts = await self.service.rewards([row for row in rows if row is not None])
        return openrlhf_response(rows, parts)

    async def _rank(self, data: dict[str, Any]) -> dict[str, Any]:
        group = parse_group(data, self.service.limits)
        return rank_response(group, await self.service.shares(group))

    def _authorize(self, request: h11.Request) -> None:
        given = _header(request, b"authorization").removeprefix(b"Bearer ").strip()
        if not hmac.compare_digest(given, self.service.token.encode()):
            raise RequestError(401, WRONG_TOKEN)

    # ---- bytes ----

    async def _next_event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(READ_BYTES))
        return event

    def _body_length(self, request: h11.Request) -> int:
        length = _header(request, b"content-length")
        if not length or _header(request, b"transfer-encoding"):
            raise RequestError(411, "a request needs a content-length")
        limits = self.service.limits
        if int(length) > limits.max_body_bytes:
            raise RequestError(413, f"more than {limits.max_body_bytes} bytes")
        return int(length)

    async def _read_body(self) -> bytes:
        limits = self.service.limits
        if self.http.they_are_waiting_for_100_continue:
            self.writer.write(
                self.http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )
        body = bytearray()
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                while isinstance(event := await self._next_event(), h11.Data):
                    body += event.data
        except TimeoutError:
            message = f"the body took more than {limits.body_timeout_s:g} seconds"
            raise RequestError(408, message) from None
        return bytes(body)

    async def _send(
        self, status: int, payload: dict[str, Any], request: h11.Request | None, *, close: bool
    ) -> None:
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return  # the client broke off
        body = json.dumps(payload).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        if close:
            headers.append(("connection", "close"))
        if status == 503:
            headers.append(("retry-after", RETRY_AFTER_S))
        data = self.http.send(h11.Response(status_code=status, headers=headers)) or b""
        if request is None or request.method != b"HEAD":
            data += self.http.send(h11.Data(data=body)) or b""
        self.http.send(h11.EndOfMessage())
        self.writer.write(data)
        await self._flush()

    async def _flush(self) -> None:
        """Wait until the client has taken the answer, so that slow readers are dropped too."""
        self.writer.transport.set_write_buffer_limits(high=0)
        async with asyncio.timeout(self.service.limits.write_timeout_s):
            await self.writer.drain()

    async def _close(self) -> None:
        """End the connection after its answer: see `LINGER_S`."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await self.reader.read(READ_BYTES):
                pass


def _header(request: h11.Request, name: bytes) -> bytes:
    """The value of a header, by its lower-case name; empty where it is missing."""
    return next((bytes(value) for key, value in request.headers if key == name), b"")

"""The local page on which a person judges: one HTML file, and its data as JSON.

    GET  /             the page; it holds no data
    GET  /progress     {"total", "done", "next", "reviewer"}
    GET  /items/N      the texts of an item
    POST /answers      an answer, on the disk before this returns -> the progress
    POST /undo         the last answer is taken back -> {"number", …progress}

It listens on the loopback only. All but the page needs the token, in a header: a page of another
site cannot send it, so nothing has to be allowed or refused by origin. The page finds the token
behind `#` in its address, a part that browsers send nowhere. The Host header must be the address
itself, so that a name that is made to point here (DNS rebinding) gets nothing.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import threading
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from pydantic import ValidationError

from cai.errors import StoreError
from cai.review.session import AnswerError, ReviewAnswer, Session

HOST = "127.0.0.1"
MAX_BODY_BYTES = 1 << 16
MAX_CONNECTIONS = 32
TIMEOUT_S = 10.0
"""Seconds in which a client must send its request, and take the answer."""


class _RequestError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReviewServer(ThreadingHTTPServer):
    """Serves a session until `shutdown`.

    Args:
        port: 0 lets the system choose one.
        token: what requests must send as `Authorization: Bearer TOKEN`.

    Raises:
        OSError: the port cannot be bound.
    """

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, session: Session, token: str, port: int = 0) -> None:
        self.session = session
        self.token = token
        self.page = files("cai.review").joinpath("page.html").read_bytes()
        self.policy = content_policy(self.page.decode())
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((HOST, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        return f"http://{HOST}:{self.server_port}/#{self.token}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """ReviewAnswer in a thread of its own; beyond the limit, close the connection."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that breaks off is no news, and a traceback would be."""


def content_policy(page: str) -> str:
    """A content security policy that admits the page's own script and style, by their digests."""

    def source(tag: str) -> str:
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in inside]
        return " ".join(f"'sha256-{value}'" for value in hashes)

    return (
        f"default-src 'none'; script-src {source('script')}; style-src {source('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    timeout = TIMEOUT_S
    server_version = "cai"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/" and self._is_local():
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        else:
            self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: standard error is for the person who started the server."""

    def _get(self) -> dict[str, Any]:
        session = self.server.session
        if self.path == "/progress":
            return session.progress()
        if match := re.fullmatch(r"/items/([0-9]{1,9})", self.path):
            return session.view(int(match[1]))
        raise _RequestError(HTTPStatus.NOT_FOUND, "no such path")

    def _post(self) -> dict[str, Any]:
        session = self.server.session
        body = self._body()
        if self.path == "/answers":
            answer = ReviewAnswer.model_validate_json(body)
            session.answer(answer)
            return session.progress(answer.number)
        if self.path == "/undo":
            return {"number": session.undo(), **session.progress()}
        raise _RequestError(HTTPStatus.NOT_FOUND, "no such path")

    def _respond(self, answer: Callable[[], dict[str, Any]]) -> None:
        status, payload = HTTPStatus.OK, {}
        try:
            self._authorize()
            payload = answer()
        except _RequestError as error:
            status, payload = error.status, {"error": str(error)}
        except AnswerError as error:
            status, payload = HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            status, payload = HTTPStatus.BAD_REQUEST, {"error": f"{where}: {first['msg']}"}
        except StoreError as error:
            status, payload = HTTPStatus.INSUFFICIENT_STORAGE, {"error": str(error)}
        self._send(status, json.dumps(payload).encode(), "application/json")

    def _is_local(self) -> bool:
        return self.headers.get_all("host", []) in ([host] for host in self.server.hosts)

    def _authorize(self) -> None:
        if not self._is_local():
            raise _RequestError(HTTPStatus.MISDIRECTED_REQUEST, "not the address of this server")
        given = self.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self.server.token.encode()):
            message = "wrong token: open the address that cai review printed"
            raise _RequestError(HTTPStatus.UNAUTHORIZED, message)

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or "transfer-encoding" in self.headers:
            raise _RequestError(HTTPStatus.LENGTH_REQUIRED, "a request needs a content-length")
        if int(length) > MAX_BODY_BYTES:
            message = f"more than {MAX_BODY_BYTES} bytes"
            raise _RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)
        if self.headers.get_content_type() != "application/json":
            raise _RequestError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        return self.rfile.read(int(length))

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", self.server.policy),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

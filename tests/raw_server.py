"""A server on the loopback that answers with bytes of any kind, and calls of `HttpLM` to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from canned import reply_answer
from lm_calls import user_chat

from cai.lm.http import HttpConfig, HttpLM

CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""Of 127.0.0.1 and example.invalid, signed by itself, with its key."""


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


ANSWER = response(json.dumps(reply_answer()).encode())


class Peer:
    """One connection that the server has accepted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def head(self) -> str:
        """The head of the next request, whose body is read as well."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        size = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
        await self.reader.readexactly(int(size or 0))
        return head

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Serve = Callable[[Peer], Awaitable[None]]


async def answer_all(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(ANSWER)


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def call(
    serve: Serve,
    calls: int = 1,
    *,
    config: HttpConfig | None = None,
    spec: str = "http://127.0.0.1:PORT/v1#toy",
    environment: Mapping[str, str] | None = None,
    pause: float = 0.0,
) -> list[Any]:
    """Texts or errors of `calls` calls.

    Args:
        serve: serves each connection, which is closed afterwards.
        spec: of the model; PORT stands for the server's.
        environment: variables, with PORT as well.
        pause: seconds between two calls; 0: they are made at once.
    """

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                await serve(Peer(reader, writer))
        finally:
            writer.close()

    async def one(lm: HttpLM, number: int) -> Any:
        await asyncio.sleep(pause * number)
        try:
            chat = user_chat(f"Hello {number}.")
            return (await lm.sample(chat, max_tokens=16, temperature=1.0, seed=number)).text
        except Exception as error:
            return error

    async def run() -> list[Any]:
        context = server_context() if spec.startswith("https://127") else None
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
        port = str(server.sockets[0].getsockname()[1])
        names = {name: text.replace("PORT", port) for name, text in (environment or {}).items()}
        with mock.patch.dict(os.environ, names):
            lm = HttpLM(spec.replace("PORT", port), config or HttpConfig(attempts=1))
            try:
                return await asyncio.gather(*(one(lm, number) for number in range(calls)))
            finally:
                await lm.aclose()
                server.close()

    return asyncio.run(run())

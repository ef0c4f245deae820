"""Connections to an endpoint: what leaves, what may come back, and when they end."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from canned import reply_answer
from raw_server import ANSWER, CERTIFICATE, Peer, answer_all, call, response

from cai.errors import BackendError, UsageError
from cai.lm.http import HttpConfig, HttpLM

KEY = "sk-Marked0123456789"
TWICE = HttpConfig(attempts=2)


def failure(result: Any) -> str:
    """The one line of a call that failed as it should."""
    assert isinstance(result, BackendError), repr(result)
    assert "\n" not in str(result)
    return str(result)


# ---- what leaves ----


def test_a_request_holds_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cookie goes back, no compression is asked for; passwords and proxies are not looked up."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("CAI_API_KEY", KEY)
    heads: list[str] = []

    async def serve(peer: Peer) -> None:
        while True:
            heads.append(await peer.head())
            await peer.send(response(json.dumps(reply_answer()).encode(), "set-cookie: a=b"))

    assert call(serve, 2, pause=0.05) == ["Well.", "Well."]
    for head in heads:
        first, *lines = head.rstrip().split("\r\n")
        headers = dict(line.split(": ") for line in lines)
        assert first == "POST /v1/chat/completions HTTP/1.1"
        assert headers.pop("Host").startswith("127.0.0.1:")
        assert int(headers.pop("Content-Length")) > 50
        assert headers == {
            "Accept": "application/json",
            "Authorization": f"Bearer {KEY}",
            "Content-Type": "application/json",
            "User-Agent": "cai",
        }


def test_a_redirect_gets_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_API_KEY", KEY)
    heads: list[str] = []

    async def serve(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(response(b"", "location: /elsewhere", status="307 Go"))

    assert "status 307: the server redirects" in failure(call(serve)[0])
    assert len(heads) == 1


PROXY = "http://me:pass%40word1@127.0.0.1:PORT"
BASIC = b64encode(b"me:pass@word1").decode()


def test_a_proxy_passes_http_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the whole address, and its own password beside the key."""
    monkeypatch.setenv("CAI_API_KEY", KEY)
    heads: list[str] = []

    async def serve(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(ANSWER)

    spec = "http://example.invalid/v1#toy"
    assert call(serve, spec=spec, environment={"http_proxy": PROXY}) == ["Well."]
    assert heads[0].startswith("POST http://example.invalid/v1/chat/completions HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {BASIC}\r\n" in heads[0]
    assert f"\r\nAuthorization: Bearer {KEY}\r\n" in heads[0]


def test_a_tunnel_learns_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy between cai and an https server gets its own password; the key goes on encrypted."""
    monkeypatch.setenv("CAI_API_KEY", KEY)
    heads: list[str] = []

    async def serve(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(response(b"", status="407 Who are you?"))

    spec = "https://example.invalid/v1#toy"
    (result,) = call(serve, spec=spec, environment={"https_proxy": PROXY})
    assert "proxy error: status 407" in failure(result)
    assert heads[0].startswith("CONNECT example.invalid:443 HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {BASIC}\r\n" in heads[0]
    assert KEY not in heads[0]


def test_a_tunnel_that_is_silent() -> None:
    async def serve(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(5)

    (result,) = call(
        serve,
        config=HttpConfig(attempts=1, timeout=0.2),
        spec="https://example.invalid/v1#toy",
        environment={"https_proxy": PROXY},
    )
    assert "connect timeout" in failure(result)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "ho st", "h\x00", "xn--", "ho\u2028st"])
def test_hosts_that_cannot_be(host: str) -> None:
    with pytest.raises(UsageError, match="not an address") as error:
        HttpLM(f"http://{host}/v1#toy")
    assert "\n" not in str(error.value)


# ---- certificates ----


def test_a_certificate_that_nobody_vouches_for() -> None:
    (result,) = call(answer_all, spec="https://127.0.0.1:PORT/v1#toy")
    assert "connect error" in failure(result)
    assert "certificate verify failed" in failure(result)


def test_a_certificate_of_the_environment() -> None:
    results = call(
        answer_all,
        spec="https://127.0.0.1:PORT/v1#toy",
        environment={"SSL_CERT_FILE": str(CERTIFICATE)},
    )
    assert results == ["Well."]


# ---- what may come back ----

HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "read error: the server closed the connection"),
        (HEAD, "read error: the server closed the connection"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "read error: the answer is not HTTP"),
        (HEAD + b"content-length: x\r\n\r\n", "read error: the answer is not HTTP"),
        (HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n", "read error: the answer is not HTTP"),
        (HEAD + b"x: y\r\n" * 10_000 + b"\r\n", "read error: the answer is not HTTP"),
        (HEAD + b"content-length: 99\r\n\r\n{", "read error: the answer breaks off"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\n{", "read error: the answer breaks off"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{", "read error: the answer is not HTTP"),
        (HEAD + b"\r\n{", "the answer is not JSON"),
        (response(zlib.compress(b" " * (17 << 20)), "content-encoding: deflate"), "larger than 16"),
        (response(b"{}", "content-encoding: gzip", "content-encoding: gzip"), "Content-Encoding"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_answer(data: bytes, message: str) -> None:
    """Each is tried again, as it may pass."""
    heads: list[str] = []

    async def serve(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(data)

    assert message in failure(call(serve, config=TWICE)[0])
    assert len(heads) == 2


def test_an_answer_without_an_end() -> None:
    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(HEAD + b"\r\n")
        while not peer.writer.is_closing():
            await peer.send(b" " * (1 << 20))

    assert "larger than 16 MiB" in failure(call(serve)[0])


def test_an_answer_byte_by_byte_ends() -> None:
    """A byte every 0.02 s never lets the read time out: the whole answer has twice 0.1 s."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        for byte in ANSWER:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)

    (result,) = call(serve, config=HttpConfig(attempts=1, timeout=0.1))
    assert "no whole answer within 0.2 s" in failure(result)


def test_mutated_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    """299 of 300 responses have changed bytes: each is an answer or one line without the key."""
    monkeypatch.setenv("CAI_API_KEY", KEY)
    heads: list[str] = []
    stream = random.Random(5)
    echo = response(json.dumps(reply_answer()).encode(), f"x: {KEY}", "connection: close")
    marks = (b"\r\n", b"\x00", b"\xff", b":", b"chunked", b"gzip", KEY.encode())

    async def serve(peer: Peer) -> None:
        changes = 0 if not heads else stream.randrange(1, 4)
        heads.append(await peer.head())
        data = echo
        for _ in range(changes):
            at = stream.randrange(len(data))
            mark = stream.choice(marks)
            data = data[:at] + mark + data[at + stream.choice([len(mark), 0, 9]) :]
        await peer.send(data)

    results = call(serve, 300, config=HttpConfig(attempts=1, connections=150), pause=0.002)
    answers = [result for result in results if isinstance(result, str)]
    assert 10 < len(answers) < 290
    for result in results:
        assert KEY not in (result if isinstance(result, str) else failure(result))


# ---- connections ----


class Counting:
    """Answers after a moment, and counts connections."""

    def __init__(self) -> None:
        self.accepted = self.open = self.most = 0

    async def __call__(self, peer: Peer) -> None:
        self.accepted += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while True:
                await peer.head()
                await asyncio.sleep(0.01)
                await peer.send(ANSWER)
        finally:
            self.open -= 1


def test_connections_are_few_and_used_again() -> None:
    serve = Counting()
    assert call(serve, 20, config=HttpConfig(connections=3)) == ["Well."] * 20
    assert (serve.accepted, serve.most) == (3, 3)


def test_a_connection_that_the_server_has_closed_meanwhile() -> None:
    """The next call opens another, without a failed attempt."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(ANSWER)

    assert call(serve, 2, pause=0.1) == ["Well."] * 2


def test_a_connection_that_the_server_closes_as_the_next_request_comes() -> None:
    """That request is made again on another."""
    heads: list[str] = []

    async def serve(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(ANSWER)
        heads.append(await peer.head())

    assert call(serve, 2, pause=0.1, config=TWICE) == ["Well."] * 2
    assert len(heads) == 3


def test_a_cancelled_call_closes_its_connection() -> None:
    """Nobody is left to read what comes on it."""
    ended: list[bytes] = []

    async def serve(peer: Peer) -> None:
        await peer.head()
        ended.append(await peer.reader.read())

    config = HttpConfig(attempts=1, timeout=30)

    async def run() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve(Peer(reader, writer))
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        lm = HttpLM(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1#toy", config)
        job = asyncio.create_task(lm.answer({"messages": []}))
        await asyncio.sleep(0.1)
        job.cancel()
        await asyncio.wait([job])
        await asyncio.sleep(0.05)
        assert ended == [b""]
        await lm.aclose()
        server.close()

    asyncio.run(run())

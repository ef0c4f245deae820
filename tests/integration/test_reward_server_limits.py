"""The reward server against strangers, slow clients and signals."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
from reward_toys import LIMITS, TOKEN, by_length, connected, send, serving

from cai.integrations.reward_batching import Job, RewardTable
from cai.integrations.reward_requests import Limits
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt, chat_of

ROW = {"prompt": "a", "response": "b c", "kind": "benign"}
BODY = json.dumps({"rows": [ROW]}).encode()
HURRIED = replace(
    LIMITS,
    max_body_bytes=1 << 20,
    head_timeout_s=0.3,
    idle_timeout_s=0.3,
    body_timeout_s=0.3,
    write_timeout_s=0.3,
    max_connections=20,
)


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length, limits=HURRIED) as running:
        yield running


def head(path: str = "/score", method: str = "POST", **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def everything(raw: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    parts = []
    while part := raw.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_strangers_are_told_before_they_send_a_body(server: RewardServer) -> None:
    """Only the head is sent, and it promises 1 MB."""
    for token in ({}, {"Authorization": "Bearer wrong"}):
        with connected(server) as raw:
            raw.sendall(head(Content_Length=1 << 20, **token))
            assert raw.recv(1 << 16).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(("token", "status"), [("wrong", 401), (TOKEN, 413)])
def test_a_refused_body_does_not_hide_the_answer(
    server: RewardServer, token: str, status: int
) -> None:
    """The client sends it to the end before it reads."""
    assert send(server, "/score", b"x" * (3 << 20), token)[0] == status


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"POST /sco", None),
        (head()[:-2], None),
        (head(Content_Length=len(BODY), Authorization=f"Bearer {TOKEN}"), 408),
        (head(Content_Length=len(BODY), Authorization=f"Bearer {TOKEN}") + BODY[:-1], 408),
    ],
    ids=["nothing", "request line", "head", "no body", "part of a body"],
)
@pytest.mark.parametrize("drip", [False, True])
def test_slow_clients_lose_their_connection(
    server: RewardServer, sent: bytes, status: int | None, drip: bool
) -> None:
    """Also those that send a byte now and then."""
    started = time.monotonic()
    with connected(server) as raw:
        raw.sendall(sent)
        if drip and not status:
            threading.Timer(0.2, raw.send, [b"X"]).start()
        answer = everything(raw)
    assert time.monotonic() - started < 2
    assert answer.startswith(b"HTTP/1.1 408") if status else answer == b""


def test_a_connection_is_reused_and_ends_when_idle(server: RewardServer) -> None:
    with connected(server) as raw:
        for _ in range(2):
            raw.sendall(head(Content_Length=len(BODY), Authorization=f"Bearer {TOKEN}") + BODY)
            assert raw.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert everything(raw) == b""


SMUGGLED = head("/health", "GET")


@pytest.mark.parametrize(
    "request_head",
    [
        head("/health", "GET", Content_Length=len(SMUGGLED)),
        head(Content_Length=len(SMUGGLED)),
        head("/other", Content_Length=len(SMUGGLED), Authorization=f"Bearer {TOKEN}"),
        head(Authorization=f"Bearer {TOKEN}"),
        head(Content_Length="x", Authorization=f"Bearer {TOKEN}"),
        head(Content_Length=1 << 40, Authorization=f"Bearer {TOKEN}"),
        head(Transfer_Encoding="chunked", Content_Length=0, Authorization=f"Bearer {TOKEN}"),
        b"nonsense\r\n\r\n",
        head(X="x" * 40_000),
    ],
)
def test_leftover_bytes_are_no_request(server: RewardServer, request_head: bytes) -> None:
    """One answer to a request whose body is not read, whatever the body looks like."""
    with connected(server) as raw:
        raw.sendall(request_head + SMUGGLED)
        answer = everything(raw)
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.count(b'"ok"') == (1 if request_head.startswith(b"GET") else 0)


@pytest.mark.parametrize("depth", [900, 1_100, 100_000])
@pytest.mark.parametrize("place", ["body", "chat", "kind", "response", "label"])
def test_deep_json_is_refused(server: RewardServer, place: str, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    if place == "body":
        body = deep
    elif place == "label":
        lists = {"query": ["Hi a"], "prompts": ["Hi"], "labels": [f'{{"chat": {deep}}}']}
        status, answer = send(server, "/get_reward", lists)
        assert status == 400 or answer["rewards"] == [None]
        return
    else:
        row = {key: value for key, value in ROW.items() if key not in (place, "prompt")}
        fields = json.dumps(row | {"chat": [{"role": "user", "content": "a"}]} | {place: "DEEP"})
        body = f'{{"rows": [{fields}]}}'.replace('"DEEP"', deep)
    status, answer = send(server, "/score", body.encode())
    assert status == 400, answer
    assert "\n" not in answer["error"]


def test_connections_are_bounded(server: RewardServer) -> None:
    """Those beyond the bound get an answer at once, and a free one lets the next in."""
    with ExitStack() as stack:
        for _ in range(HURRIED.max_connections):
            stack.enter_context(connected(server))
        with connected(server) as raw:
            assert everything(raw).startswith(b"HTTP/1.1 503")
    deadline = time.monotonic() + 10
    while send(server, "/health", b"", method="GET")[0] != 200:
        assert time.monotonic() < deadline


def test_bytes_in_flight_are_bounded() -> None:
    """Two bodies of 40 kB fit into 100 kB: the third client is asked to retry, and is let in when
    one of the others is done."""
    limits = replace(Limits(), max_bytes_in_flight=100_000)
    body = json.dumps({"rows": [ROW | {"response": "b" * 40_000}]}).encode()
    with serving(by_length, limits=limits) as running, ExitStack() as stack:
        token = f"Bearer {TOKEN}"
        waiting = [stack.enter_context(connected(running)) for _ in range(2)]
        for raw in waiting:
            raw.sendall(head(Authorization=token, Content_Length=len(body)) + body[:-1])
        wait_until(lambda: running.bodies.held == 2 * len(body))
        with connected(running) as raw:
            raw.sendall(head(Authorization=token, Content_Length=len(body)) + body)
            answer = everything(raw)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in answer
        assert send(running, "/health", b"", method="GET")[0] == 200
        waiting[0].sendall(body[-1:])
        assert waiting[0].recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert send(running, "/score", body)[0] == 200
        waiting[1].close()
        wait_until(lambda: running.bodies.held == 0)


def test_a_cancelled_job_holds_no_text() -> None:
    job = Job(Prompt(chat=chat_of(("user", "x" * 1000))), "y" * 1000)
    job.cancel()
    assert len(job.reply) + len(job.prompt.chat[0].content) == 1
    done = Job(Prompt(chat=chat_of(("user", "x"))), "y")
    done.result.set_result({})
    done.cancel()
    assert done.reply == "y"


def test_small_answers_do_not_wait_for_acknowledgements(server: RewardServer) -> None:
    """Nagle's algorithm with delayed acknowledgements costs 40 ms a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    seconds = []
    for _ in range(10):
        started = time.monotonic()
        connection.request("POST", "/score", BODY, {"authorization": f"Bearer {TOKEN}"})
        assert connection.getresponse().read()
        seconds.append(time.monotonic() - started)
    connection.close()
    assert sorted(seconds)[2] < 0.03


def test_shutdown_finishes_requests_under_way() -> None:
    entered = threading.Event()

    def slow(prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
        entered.set()
        time.sleep(0.4)
        return by_length(prompts, replies)

    with ThreadPoolExecutor(1) as pool, serving(slow) as running:
        answer = pool.submit(send, running, "/score", {"rows": [ROW]})
        assert entered.wait(10)
        with connected(running) as idle:
            running.shutdown()
            assert everything(idle) == b""
        assert answer.result()[1]["rewards"] == [3.0]
        assert running.server_close()


PROCESS = """
import os, sys, time
import cai.cli.serve as serve
from cai.cli import main

def slow(prompts, replies):
    time.sleep(float(replies[0]))
    return {"pm": [1.0 for _ in replies]}

serve.rubric_score = lambda constitution: slow
main(["serve-reward", "--constitution", "harmless", "--port", "0"])
"""


def started_process(script: str) -> tuple[subprocess.Popen[str], RewardServer]:
    """A server in a process, and a stand-in that says its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CAI_REWARD_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout
    port = int(process.stdout.readline().rsplit(":", 1)[1])
    stand_in = RewardServer.__new__(RewardServer)
    stand_in.server_address = ("127.0.0.1", port)
    return process, stand_in


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_after_its_requests(number: signal.Signals, code: int) -> None:
    process, served = started_process(PROCESS)
    with process, ThreadPoolExecutor(4) as pool:
        body = {"rows": [ROW | {"response": "0.5"}]}
        answers = [pool.submit(send, served, "/score", body) for _ in range(4)]
        time.sleep(0.3)
        process.send_signal(number)
        assert [answer.result()[0] for answer in answers] == [200] * 4
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert errors == "" or number == signal.SIGINT
    assert "Traceback" not in errors


HOG = """
import asyncio, resource, sys, threading, time
from reward_toys import TOKEN, by_length
from cai.integrations.reward_requests import Limits
from cai.integrations.reward_server import RewardServer

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
server = RewardServer(("127.0.0.1", 0), by_length, TOKEN)
threading.Thread(target=server.serve_forever, daemon=True).start()
time.sleep(0.2)
files = []
try:
    while True:
        files.append(open("/dev/null"))
except OSError:
    pass
print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
time.sleep(0.3)
before = time.process_time()
time.sleep(0.7)
print(time.process_time() - before, flush=True)
for file in files:
    file.close()
sys.stdin.readline()
"""


def test_without_descriptors_the_server_waits() -> None:
    """It uses little of the processor, and serves again once there are some."""
    process, served = started_process(HOG)
    with process:
        assert process.stdout
        with connected(served) as raw:
            raw.sendall(head("/health", "GET"))
            assert float(process.stdout.readline()) < 0.25
            assert raw.recv(1 << 16).startswith(b"HTTP/1.1 200")
        _, errors = process.communicate("", timeout=20)
    assert errors.count("\n") == 1
    assert "Too many open files" in errors

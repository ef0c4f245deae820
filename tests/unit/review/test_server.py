"""The review's server: who may read and write, bounds, and a kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from cli_runner import Capture, run_command
from review_toys import TOKEN, pair, pair_items, reply_item, served, session

from cai.review.server import MAX_BODY_BYTES, ReviewServer
from cai.review.session import read_judgements
from cai.store import append_rows

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ANSWER = {"number": 0, "verdict": "A", "seconds": 2.5}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    with served(session(tmp_path / "r.jsonl", pair_items(3))) as running:
        yield running


def client(server: ReviewServer, **headers: str) -> httpx2.Client:
    base = f"http://127.0.0.1:{server.server_port}"
    return httpx2.Client(base_url=base, headers=HEADERS | headers, trust_env=False, verify=False)


def test_judging(server: ReviewServer, tmp_path: Path) -> None:
    with client(server) as http:
        assert http.get("/progress").json()["next"] == 0
        assert http.get("/items/0").json()["task"] == "pair"
        assert http.post("/answers", json=ANSWER).json()["done"] == 1
        assert len(read_judgements(tmp_path / "r.jsonl")) == 1
        assert http.post("/undo", json={}).json() == {
            "number": 0, "total": 3, "done": 0, "next": 0, "reviewer": "ann",
        }  # fmt: skip


@pytest.mark.parametrize("path", ["/progress", "/items/0", "/answers", "/undo", "/other"])
@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", TOKEN[:-1], "Bearer \u00e9"])
def test_strangers_get_nothing(server: ReviewServer, path: str, token: str) -> None:
    with client(server) as http:
        for method in ("GET", "POST"):
            answer = http.request(method, path, headers={"Authorization": token.encode("latin-1")})
            assert answer.status_code == 401
            assert "Question" not in answer.text
    assert server.session.progress()["done"] == 0


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil:80"])
@pytest.mark.parametrize("path", ["/", "/progress", "/items/0"])
def test_another_host_name_gets_nothing(server: ReviewServer, host: str, path: str) -> None:
    """A name that resolves to the loopback (DNS rebinding) makes a page of another site local."""
    with client(server, Host=host) as http:
        assert http.get(path).status_code == 421
        assert http.post("/answers", json=ANSWER).status_code == 421


def test_localhost_is_a_name_of_the_server(server: ReviewServer) -> None:
    with client(server, Host=f"localhost:{server.server_port}") as http:
        assert http.get("/progress").status_code == 200


def test_the_page_holds_no_data_and_loads_nothing(server: ReviewServer) -> None:
    with client(server) as http:
        page = http.get("/", headers={"Authorization": ""})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert not {name for name in page.headers if name.startswith("access-control")}
    for absent in ("Question", TOKEN, "innerHTML", "http://", "https://", "style="):
        assert absent not in page.text


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"x" * (MAX_BODY_BYTES + 1), {}, 413),
        (b"{", {}, 400),
        (b"[" * 60000, {}, 400),
        (b"[]", {}, 400),
        (b'{"number": 0, "verdict": "A", "seconds": NaN}', {}, 400),
        (b'{"number": 0, "verdict": "A", "seconds": -1}', {}, 400),
        (b'{"number": 0, "verdict": "undone", "seconds": 1}', {}, 400),
        (b'{"number": 9, "verdict": "A", "seconds": 1}', {}, 400),
        (b'{"number": 0, "verdict": "A", "seconds": 1, "more": 1}', {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
    ],
)
def test_wrong_bodies(
    server: ReviewServer, content: bytes, headers: dict[str, str], status: int
) -> None:
    with client(server, **({"Content-Type": "application/json"} | headers)) as http:
        answer = http.post("/answers", content=content)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert server.session.progress()["done"] == 0


@pytest.mark.parametrize("path", ["/items/9", "/items/-1", "/items/" + "1" * 40, "/../etc/passwd"])
def test_unknown_paths(server: ReviewServer, path: str) -> None:
    with client(server) as http:
        assert http.get(path).status_code in (400, 404)


def test_a_body_without_an_end_is_refused(server: ReviewServer) -> None:
    with client(server) as http:
        assert http.post("/answers", content=iter([b"{}"])).status_code == 411


def test_connections_are_bounded(server: ReviewServer) -> None:
    """Forty idle ones do not keep the page away once they are gone; the server lives."""
    idle = [socket.create_connection(server.server_address[:2]) for _ in range(40)]
    for connection in idle:
        connection.close()
    with client(server) as http:
        for _ in range(50):
            try:
                assert http.get("/progress").status_code == 200
                break
            except httpx2.TransportError:
                continue
        else:
            pytest.fail("the server never answered again")


def test_a_full_disk_is_one_line(server: ReviewServer, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").mkdir()
    with client(server) as http:
        answer = http.post("/answers", json=ANSWER)
    assert answer.status_code == 507
    assert "cannot write" in answer.json()["error"]
    assert server.session.progress()["done"] == 0


def test_two_reviewers_at_once(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    items = [*pair_items(4), reply_item()]
    with served(session(file, items)) as one, served(session(file, items, "bob")) as two:
        for number in range(4):
            for server in (one, two):
                with client(server) as http:
                    assert http.post("/answers", json=ANSWER | {"number": number}).is_success
        assert one.session.progress()["done"] == two.session.progress()["done"] == 4
    assert len(read_judgements(file)) == 8


def start(folder: Path, reviewer: str = "ann") -> tuple[subprocess.Popen[str], str]:
    """`cai review` in a process of its own: (process, address of the page)."""
    command = [sys.executable, "-m", "cai.cli", "review", "--pairs", folder / "pairs.jsonl"]
    command += ["--output", folder / "r.jsonl", "--reviewer", reviewer]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_killed_review_goes_on(tmp_path: Path, capsys: Capture) -> None:
    """Each answer was on the disk when the page got its reply. A second page of the same reviewer
    is refused while the first is there, and a kill frees the name."""
    append_rows(tmp_path / "pairs.jsonl", [pair(number) for number in range(3)])
    process, address = start(tmp_path)
    url, _, token = address.partition("/#")
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.post(f"{url}/answers", json=ANSWER, headers=headers).json()["done"] == 1
    second = run_command(
        capsys, "review", "--pairs", tmp_path / "pairs.jsonl", "--output", tmp_path / "r.jsonl",
        "--reviewer", "ann",
    )  # fmt: skip
    assert "another process" in second.usage_error
    process.kill()
    process.communicate()
    process, address = start(tmp_path)
    url, _, token = address.partition("/#")
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx2.get(f"{url}/progress", headers=headers).json()["next"] == 1
    process.send_signal(signal.SIGINT)
    assert "1 of 3 judged" in process.communicate(timeout=120)[1]
    assert process.returncode == 130

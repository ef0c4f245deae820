"""Keys, passwords of proxies and addresses: refused without quoting, masked before cutting."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from canned import Canned, CannedLM, always, choice_answer, reply_answer
from lm_calls import sample_hello

import cai.cli
import cai.lm
from cai.errors import BackendError, ConfigError, UnansweredError, UsageError
from cai.lm import open_lm
from cai.lm.credentials import has_user_info, mask, read_proxy
from cai.lm.http import HttpLM
from cai.pipeline.config import load_run

MARKED = "sk-Marked0123456789"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", " ", "\t", "\x7f", "\x01", "\u2028", "é", "–"])
@pytest.mark.parametrize("place", ["end", "start", "middle"])
def test_a_key_with_odd_characters_is_refused_unquoted(
    monkeypatch: pytest.MonkeyPatch, end: str, place: str
) -> None:
    key = {"end": MARKED + end, "start": end + MARKED, "middle": f"{MARKED}{end}{MARKED}"}[place]
    monkeypatch.setenv("CAI_API_KEY", key)
    with pytest.raises(UsageError, match="CAI_API_KEY: the key holds a line break") as error:
        HttpLM("http://127.0.0.1:1/v1#m")
    assert "Marked" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        "http://:SECRET@host/v1#m",
        "http://me:SECRET@host/v1#m",
        "https://SECRET@host:1/v1#m",
        "http://me:SECRET@host:99999/v1#m",
        "http://me:SECRET@[::1/v1#m",
        "http://me:SECRET@/v1#m",
        "http://me:SECRET@host/v1",
        "http://me:SEC/RET@host/v1#m",
        "http://me:p#SECRET@host/v1#m",
        "HTTP://me:SECRET@host/v1#m",
        "http://host/v1?key=SECRET#m",
    ],
)
def test_a_secret_in_an_address_is_refused_unquoted(tmp_path: Path, spec: str) -> None:
    """Before a run leaves its settings in its folder."""
    for check in (lambda: open_lm(spec), lambda: HttpLM(spec)):
        with pytest.raises(UsageError) as error:
            check()
        assert "SECRET" not in str(error.value)
    run = tmp_path / "run.yaml"
    run.write_text(
        f"name: x\nconstitution: assistant\nprompts: [p.jsonl]\njudge: {json.dumps(spec)}\n"
    )
    (tmp_path / "p.jsonl").write_text("")
    with pytest.raises(ConfigError, match="keys don't belong into the address") as refused:
        load_run(run)
    assert "SECRET" not in str(refused.value)


def test_addresses_without_secrets() -> None:
    """A model's name may hold an @."""
    for spec in ("http://h/v1#org/m@rev", "https://h:8443/v1#m", "smollm2", "local:/a@b"):
        assert not has_user_info(spec)


@pytest.mark.parametrize("port", ["99999", "x", "-1"])
def test_impossible_ports(port: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        open_lm(f"http://127.0.0.1:{port}/v1#m")


@pytest.mark.parametrize(
    "proxy",
    ["socks://me:PASS1234@h:9", "ftp://me:PASS1234@h", "http://me:PASS1234@h:99999",
     "http://me:PASS1234@[::1", "http://me:PA SS1234@", "://"],
)  # fmt: skip
def test_an_unusable_proxy_is_refused_unquoted(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(UsageError, match="http_proxy: not a usable address") as error:
        HttpLM("http://example.invalid/v1#m")
    assert "SS1234" not in str(error.value)


def test_a_proxy_without_a_scheme_and_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback is never reached through a proxy: it would get the key."""
    monkeypatch.setenv("http_proxy", "me:p%40ss@127.0.0.1:9")
    proxy = read_proxy("http", "example.invalid")
    assert proxy is not None
    assert proxy.secrets == ("p%40ss", "p@ss", "bWU6cEBzcw==")
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert read_proxy("http", host) is None


def test_certificates_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/ca.pem")
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        sample_hello(HttpLM("https://127.0.0.1:1/v1#m"))


def test_redirects_are_not_followed() -> None:
    lm = CannedLM(always(Canned(b"", 307, [("location", "http://elsewhere/v1")])))
    with pytest.raises(BackendError, match="status 307: the server redirects") as error:
        sample_hello(lm)
    assert not isinstance(error.value, UnansweredError)
    assert lm.requests == 1


def test_masked_before_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut, after 200 characters, falls into the key."""
    monkeypatch.setenv("CAI_API_KEY", MARKED)
    for start in range(180, 201):
        body = json.dumps({"error": {"message": "x" * start + MARKED}}).encode()
        with pytest.raises(UnansweredError) as error:
            sample_hello(CannedLM(always(Canned(body, 400))))
        assert "sk-" not in str(error.value)
    assert mask("ab abc", ("ab", "abc")) == "*** ***"


def hostile(stream: random.Random) -> Any:
    """A server that repeats the request's headers, secrets and all, wherever it can."""

    def respond(body: dict[str, Any], request: httpx.Request) -> Canned:
        key = request.headers.get("authorization", "")
        words = f"{'x' * stream.randrange(250)} {key} {MARKED}:proxy"
        status = stream.choice([200, 200, 200, 200, 400, 422, 401, 429, 500, 307, 404, 418])
        if status != 200:
            data = stream.choice([json.dumps({"error": {"message": words}}), words]).encode()
            return Canned(data, status, [("location", words), ("retry-after", words)])
        logprobs = body.get("logprobs")
        answer = choice_answer(("A", -0.2), (words, -2.0)) if logprobs else reply_answer(words)
        choice = answer["choices"][0]
        choice["finish_reason"] = stream.choice(["stop", words, "length"])
        choice["message"]["refusal"] = words
        if stream.random() < 0.2:
            choice["message"]["content"] = None
        if stream.random() < 0.1:
            answer = {"error": {"message": words}}
        return Canned(json.dumps(answer).encode())

    return respond


COMMANDS = {
    "label": ("--constitution", "helpful_honest", "--input", "pairs.jsonl", "--output", "o.jsonl"),
    "revise": ("--constitution", "harmless", "--input", "pairs.jsonl", "--output", "o.jsonl"),
    "grade": ("--constitution", "harmless", "--input", "replies.jsonl", "--output", "o.jsonl",
              "--ask-all"),
    "eval": ("--only", "refusal", "--data", "replies.jsonl", "--output", "o.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_file_and_no_stream_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    """6 runs a command against a hostile server, with keys and proxies that are usable or not."""
    stream = random.Random(command)
    monkeypatch.setattr(
        cai.lm, "HttpLM", lambda spec, config: CannedLM(hostile(stream), config, spec=spec)
    )
    rows = [
        {"prompt": f"Ask {i}", "kind": "benign", "first": "A b.", "second": "C d.", "response": "E"}
        for i in range(4)
    ]
    for run in range(6):
        folder = tmp_path / str(run)
        folder.mkdir()
        monkeypatch.chdir(folder)
        for name in ("pairs.jsonl", "replies.jsonl"):
            Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setenv("CAI_API_KEY", MARKED + stream.choice(["", "", "", "\n", " "]))
        proxy = f"{stream.choice(['http', 'http', 'socks'])}://me:{MARKED}:proxy@127.0.0.1:9"
        monkeypatch.setenv("http_proxy", proxy)
        user_info = stream.choice(["", "", "", f":{MARKED}@"])
        host = stream.choice(["127.0.0.1", "example.invalid"])
        model = f"http://{user_info}{host}:1/v1#m"
        with pytest.raises(SystemExit):
            cai.cli.main([command, "--model", model, *COMMANDS[command]])
        streams = capfd.readouterr()
        assert "Traceback" not in streams.err
        assert MARKED[:12] not in streams.out + streams.err
        for file in folder.rglob("*"):
            assert MARKED.encode()[:12] not in file.read_bytes(), file

"""Keys, passwords of proxies and addresses: refused without quoting, masked before cutting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from canned import Canned, CannedLM, always, reply_answer
from key_fuzz import fuzz_keys
from lm_calls import sample_hello

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
        "https://SEC/RET@host/v1#m",
        "http://SEC#RET@host/v1#m",
        "htp://me:SECRET@host/v1#m",
        "me:SECRET@host/v1#m",
        " http://me:SECRET@host/v1#m",
        "http:/me:SECRET@host/v1#m",
        "http:me:SECRET@host#m",
    ],
)
def test_a_secret_in_an_address_is_refused_unquoted(tmp_path: Path, spec: str) -> None:
    """Before a run leaves its settings in its folder."""
    for check in (lambda: open_lm(spec), lambda: HttpLM(spec)):
        with pytest.raises(UsageError) as error:
            check()
        assert "SEC" not in str(error.value)
    run = tmp_path / "run.yaml"
    run.write_text(
        f"name: x\nconstitution: assistant\nprompts: [p.jsonl]\njudge: {json.dumps(spec)}\n"
    )
    (tmp_path / "p.jsonl").write_text("")
    with pytest.raises(ConfigError, match="keys don't belong into the address") as refused:
        load_run(run)
    assert "SEC" not in str(refused.value)


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


def test_masked_before_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut, after 200 characters, falls into the key."""
    monkeypatch.setenv("CAI_API_KEY", MARKED)
    for start in range(180, 201):
        body = json.dumps({"error": {"message": "x" * start + MARKED}}).encode()
        with pytest.raises(UnansweredError) as error:
            sample_hello(CannedLM(always(Canned(body, 400))))
        assert "sk-" not in str(error.value)
    assert mask("ab abc", ("ab", "abc")) == "*** ***"


KEY = "sk-Marked/0123456789+abcdefghij"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"a {KEY} b", "a *** b"),
        (f"cut {KEY[:20]}", "cut ***"),
        (f"cut {KEY[9:]} b {KEY[:7]}", "cut *** b sk-Mark"),
        (f"{KEY[4:13]} {KEY[20:]}", "*** ***"),
        ("nothing of it", "nothing of it"),
    ],
)
def test_parts_of_a_secret_are_masked(text: str, masked: str) -> None:
    """Eight characters or more: a server may have cut its text itself."""
    assert mask(text, (KEY,)) == masked


def test_every_part_is_found() -> None:
    for start in range(len(KEY) - 8):
        for end in range(start + 8, len(KEY) + 1):
            assert mask(f"x{KEY[start:end]}#", (KEY,)) == "x***#"


@pytest.mark.parametrize("spell", ["escaped", "slash", "plain"])
def test_a_key_in_other_spellings_of_json(monkeypatch: pytest.MonkeyPatch, spell: str) -> None:
    """As PHP writes "/", and with every character escaped: in a reply, and in an error."""
    monkeypatch.setenv("CAI_API_KEY", KEY)
    spelled = {
        "escaped": "".join(f"\\u{ord(char):04x}" for char in KEY),
        "slash": KEY.replace("/", "\\/"),
        "plain": KEY,
    }[spell]
    reply = json.dumps(reply_answer("Yes: KEY")).replace("KEY", spelled).encode()
    assert sample_hello(CannedLM(always(Canned(reply)))).text == "Yes: ***"
    for status in (200, 400):
        body = '{"error": {"message": "no KEY"}}'.replace("KEY", spelled).encode()
        with pytest.raises(BackendError, match=r"no \*\*\*"):
            sample_hello(CannedLM(always(Canned(body, status))))


def test_no_file_and_no_stream_holds_a_secret(tmp_path: Path) -> None:
    """A few commands of `benchmarks/key_fuzz.py`, which makes a thousand runs."""
    commands = ("label", "calibrate", "eval", "grade")
    counts = fuzz_keys(tmp_path, 16, seed=7, commands=commands)
    assert counts["leaks"] == counts["tracebacks"] == 0
    assert counts["in process"] == 16
    assert counts["exit 0"] > 1, "a usable key meets a server that answers"

"""HttpLM against a real server on the loopback: retries, failures and keys."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from endpoint import endpoint
from lm_calls import choose_a_or_b, sample_hello

from cai.errors import BackendError, UnansweredError
from cai.lm import open_lm
from cai.lm.caching import CachedLM
from cai.lm.http import HttpConfig, HttpLM
from cai.lm.request_log import RequestLog


def test_a_reply_and_a_choice(tmp_path: Path) -> None:
    """The server's text, finish reason, token counts and log-odds; " B" counts as B."""
    with endpoint(tmp_path) as server:
        lm = open_lm(server.spec)
        got = sample_hello(lm)
        assert got.text.startswith("I'm sorry, but I can't help with ")
        assert (got.finished, got.prompt_tokens, got.completion_tokens) == (True, 50, 10)
        a, b = choose_a_or_b(lm)
        assert math.exp(a) + math.exp(b) == pytest.approx(1.0)
        assert sample_hello(lm) == got


@pytest.mark.parametrize("fault", ["500", "429", "503", "408", "cut", "drop", "empty"])
def test_what_may_pass_is_tried_again(tmp_path: Path, fault: str) -> None:
    """Three attempts; a server that never answered counts as not running, and the run stops."""
    with endpoint(tmp_path, always=fault) as server:
        with pytest.raises(BackendError, match="is the server running"):
            sample_hello(HttpLM(server.spec, HttpConfig(attempts=3)))
        assert [got for _, got in server.answered()] == [fault] * 3


def test_a_server_that_hangs(tmp_path: Path) -> None:
    with (
        endpoint(tmp_path, always="hang") as server,
        pytest.raises(BackendError, match="read timeout"),
    ):
        sample_hello(HttpLM(server.spec, HttpConfig(attempts=2, timeout=0.2)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("400", "status 400: said with status 400"),
        ("422", "status 422"),
        ("length", "the reply ended by length, which http.allow does not list"),
        ("content_filter", "the reply ended by content_filter"),
    ],
)
def test_what_will_not_pass_is_asked_once(tmp_path: Path, fault: str, message: str) -> None:
    """Only this call fails, so that its row becomes null."""
    with endpoint(tmp_path, always=fault) as server:
        with pytest.raises(UnansweredError, match=message):
            sample_hello(HttpLM(server.spec))
        assert len(server.answered()) == 1


def test_cut_replies_are_taken_when_allowed(tmp_path: Path) -> None:
    with endpoint(tmp_path, always="length") as server:
        assert sample_hello(HttpLM(server.spec, HttpConfig(allow=("length",)))).finished is False


def test_options_nobody_named_and_missing_logprobs(tmp_path: Path) -> None:
    with endpoint(tmp_path / "a", always="option") as server:
        assert choose_a_or_b(HttpLM(server.spec)) is None
    with (
        endpoint(tmp_path / "b", always="no logprobs") as server,
        pytest.raises(UnansweredError, match="no log-probabilities"),
    ):
        choose_a_or_b(HttpLM(server.spec))


def test_no_server_at_all() -> None:
    with pytest.raises(BackendError, match=r"connect error: .*; is the server running"):
        sample_hello(HttpLM("http://127.0.0.1:9/v1#toy", HttpConfig(attempts=2)))


def test_many_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    """16 calls in a row without an answer: the 16th error stops the run."""
    with endpoint(tmp_path, always="400") as server:
        lm = HttpLM(server.spec, HttpConfig(connections=1))
        for _ in range(15):
            with pytest.raises(UnansweredError):
                sample_hello(lm)
        with pytest.raises(BackendError, match="16 calls in a row without an answer") as error:
            sample_hello(lm)
        assert not isinstance(error.value, UnansweredError)


def test_a_key_is_sent_and_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right key gives an answer and is not logged; else one call names the variable."""
    with endpoint(tmp_path / "s", key="sk-123456") as server:
        with pytest.raises(
            BackendError, match=r"401: .*environment variable CAI_API_KEY: it is not set"
        ) as error:
            sample_hello(HttpLM(server.spec))
        assert not isinstance(error.value, UnansweredError)
        monkeypatch.setenv("CAI_API_KEY", "sk-654321")
        with pytest.raises(BackendError, match="the key in it was refused") as error:
            sample_hello(HttpLM(server.spec))
        assert "sk-654321" not in str(error.value)
        assert len(server.answered()) == 2
        monkeypatch.setenv("CAI_API_KEY", "sk-123456")
        lm = CachedLM(HttpLM(server.spec), RequestLog(tmp_path / "log.sqlite"))
        assert sample_hello(lm).text
        assert "sk-123456" not in lm.fingerprint
    lm.log.close()
    assert b"sk-123456" not in b"".join(file.read_bytes() for file in tmp_path.glob("log.sqlite*"))


def test_servers_words_are_told_without_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that echoes the key in an error message: stars replace it."""
    monkeypatch.setenv("CAI_API_KEY", "said")
    with (
        endpoint(tmp_path, always="400") as server,
        pytest.raises(UnansweredError, match=r"status 400: \*\*\* with status 400"),
    ):
        sample_hello(HttpLM(server.spec))

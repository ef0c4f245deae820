"""Endpoints of the commands on files: settings as in a run, what is paid for, rows asked again."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from canned import Canned, ok
from cli_runner import Capture, CommandResult, run_command
from file_tools import CHOICES, COMMANDS, SPEC, Endpoint, answer, write_inputs
from tenacity import wait_none

import cai.lm
from cai.errors import ConfigError
from cai.lm import http
from cai.lm.request_log import RequestLog
from cai.pipeline.config import load_run

USAGE = (50, 10)
"""Tokens of one reply."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(http, "retry_wait", wait_none())
    monkeypatch.delenv(http.API_KEY_VARIABLE, raising=False)
    write_inputs(tmp_path)
    return tmp_path


def run(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, server: Endpoint, command: str, *more: object
) -> CommandResult:
    monkeypatch.setattr(cai.lm, "HttpLM", server.open)
    return run_command(capsys, command, "--model", SPEC, *COMMANDS[command], *more)


# ---- settings ----


@pytest.mark.parametrize("command", COMMANDS)
def test_the_settings_of_a_run(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    server = Endpoint()
    settings = (
        "http.timeout=7",
        "http.attempts=3",
        "http.allow=[length]",
        "http.prefill=false",
        "http.top_logprobs=5",
        "http.requests_per_minute=6e9",
        "prices.prompt=1000",
    )
    options = [part for setting in settings for part in ("--set", setting)]
    result = run(capsys, monkeypatch, server, command, *options, "--connections", 3)
    assert result.code == 0, result.err
    (lm,) = server.opened
    assert lm.config.model_dump() == {
        "connections": 3,
        "requests_per_minute": 6e9,
        "tokens_per_minute": None,
        "timeout": 7.0,
        "attempts": 3,
        "start_timeout": 900.0,
        "allow": ("length",),
        "prefill": False,
        "top_logprobs": 5,
    }
    cost = server.requests * USAGE[0] * 1000 / 1e6
    assert f"calls   {server.requests:,}   tokens {server.requests * USAGE[0]:,} +" in result.err
    assert f"cost {cost:.4g}" in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_limit_on_cost(capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    server = Endpoint()
    refused = run(capsys, monkeypatch, server, command, "--max-cost", 1)
    assert "--max-cost needs prices: give --set prices.prompt=X" in refused.usage_error
    prices = ("--set", "prices.prompt=1", "--set", "prices.completion=1")
    result = run(capsys, monkeypatch, server, command, *prices, "--max-cost", 0.0003)
    assert result.code == 1
    assert "--max-cost 0.0003 is reached" in result.err
    assert server.requests <= 5
    log = RequestLog(Path("o.requests.sqlite"))
    assert sum(calls for _, _, calls, *_ in log.stats()) == server.requests


WRONG = {
    "http.timeot=7": "http.timeot: unknown key 'timeot': did you mean 'timeout'?",
    "http.timeout=-1": "http.timeout: must be greater than 0.0, got the number -1",
    "http.allow=[lenght]": "must be 'length', 'content_filter' or 'missing'",
    "prices.prompt=dear": "prices.prompt: must be a number, got the text 'dear'",
    "http.timeout": "expected key.path=value",
    "http=1": "http: must be a mapping",
}


@pytest.mark.parametrize("setting", WRONG)
def test_wrong_settings_in_the_words_of_a_run(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, folder: Path, setting: str
) -> None:
    """For every command, before anything is asked or written."""
    server = Endpoint()
    file = folder / "run.yaml"
    file.write_text("name: x\nconstitution: harmless\nprompts: [rows.jsonl]\n")
    with pytest.raises(ConfigError) as of_run:
        load_run(file, [setting])
    words = str(of_run.value).removeprefix(f"{file}:1: ")
    before = {path.name for path in folder.iterdir()}
    for command in COMMANDS:
        error = run(capsys, monkeypatch, server, command, "--set", setting).usage_error
        assert WRONG[setting] in error
        assert error in (words, f"{command}: --set {words}")
    assert server.requests == 0
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_that_cannot_be(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    server = Endpoint()
    twice = ("--connections", 3, "--set", "http.connections=4")
    result = run(capsys, monkeypatch, server, command, *twice)
    assert result.usage_error == (
        f"{command}: --connections and --set http.connections: give one of them"
    )
    for setting in ("label.principles=1", "seed=1", "x"):
        result = run(capsys, monkeypatch, server, command, "--set", setting)
        assert result.usage_error == (
            f"{command}: --set {setting.partition('=')[0]}: without a run's YAML only the sections "
            "http and prices can be set"
        )


@pytest.mark.parametrize("command", ["grade", "near-miss"])
def test_settings_without_a_model(capsys: Capture, command: str) -> None:
    options = [option for option in COMMANDS[command] if option != "--ask-all"]
    result = run_command(capsys, command, *options, "--set", "http.timeout=7", "--max-tokens", 1)
    assert "--set, --max-tokens: only with --model" in result.usage_error


@pytest.mark.parametrize("command", ["label", "revise", "grade", "eval", "redteam"])
def test_settings_that_decide_rows_are_provenance(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    server = Endpoint()
    assert run(capsys, monkeypatch, server, command).code == 0
    requests = server.requests
    assert run(capsys, monkeypatch, server, command, "--set", "http.timeout=9").code == 0
    result = run(capsys, monkeypatch, server, command, "--set", "http.allow=[length]")
    assert "its rows were made with another http.allow" in result.usage_error
    assert server.requests == requests


def test_another_prefill_is_another_request(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is sent other messages: the logged answer is to another question."""
    server = Endpoint()
    assert run(capsys, monkeypatch, server, "label").code == 0
    requests = server.requests
    for file in ("o.jsonl", "o.manifest.json"):
        Path(file).unlink()
    assert run(capsys, monkeypatch, server, "label", "--set", "http.prefill=false").code == 0
    assert server.requests == 2 * requests


# ---- what is paid for ----


def is_chosen(body: dict[str, Any], share: float = 0.4) -> bool:
    text = json.dumps(body, sort_keys=True)
    return int(sha256(text.encode()).hexdigest()[:8], 16) < share * 16**8


def refused(body: dict[str, Any]) -> Canned | None:
    """Some answers are cut, or without log-probabilities; some are malformed, and counted."""
    result = answer(body)
    if is_chosen(body, 0.5) and not is_chosen(body):
        return ok({"usage": result["usage"]})
    if not is_chosen(body):
        return None
    result["choices"][0].pop("logprobs", None)
    result["choices"][0]["finish_reason"] = "length"
    return ok(result)


@pytest.mark.parametrize("command", COMMANDS)
def test_refused_answers_are_charged_logged_and_counted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """And told: a line for each reason. A second run pays for none of the cut ones again."""
    bodies: list[dict[str, Any]] = []

    def respond(body: dict[str, Any]) -> Canned | None:
        bodies.append(body)
        return refused(body)

    server = Endpoint(respond)
    result = run(capsys, monkeypatch, server, command)
    assert result.code in (0, 1), result.err
    count = sum(map(is_chosen, bodies))
    assert 0 < count < len(bodies)
    assert f"calls   {len(bodies):,}   tokens {50 * len(bodies):,} +" in result.err
    assert f"{count:,} answers refused" in result.err
    log = RequestLog(Path("o.requests.sqlite"))
    assert sum(calls for _, _, calls, *_ in log.stats()) == len(set(map(json.dumps, bodies)))
    assert sum(prompt for _, _, _, prompt, *_ in log.stats()) == 50 * len(bodies)
    reason = "log-probabilities" if command in CHOICES else "the reply ended by length"
    told = [line for line in result.err.splitlines() if line.startswith(f"{command}: ")]
    assert any(" rows are null" in line for line in told)
    assert any(" null: no answer: " in line and reason in line for line in told), told
    first = len(bodies)
    run(capsys, monkeypatch, server, command)
    if command not in CHOICES:
        assert not any(is_chosen(body) for body in bodies[first:])


# ---- rows to ask again ----


class Outage:
    """Fails for some requests with a status that passes, after the first two answers."""

    def __init__(self) -> None:
        self.is_over = False
        self.answered = 0
        self.failed: set[str] = set()

    def __call__(self, body: dict[str, Any]) -> Canned | None:
        if not self.is_over and self.answered >= 2 and is_chosen(body, 0.3):
            self.failed.add(json.dumps(body))
            return Canned(b"{}", 503)
        self.answered += 1
        return None


OUTPUTS = ("o.jsonl", "o.items.jsonl", "o.yaml")


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS if (folder / name).exists()}


@pytest.mark.parametrize("command", COMMANDS)
def test_rows_without_an_answer_are_asked_again(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, folder: Path, command: str
) -> None:
    """After an outage, the same command leaves the files of a run without one, to the byte."""
    outage = Outage()
    server = Endpoint(outage)
    attempts = ("--set", "http.attempts=1")
    first = run(capsys, monkeypatch, server, command, *attempts)
    assert first.code in (0, 1), first.err
    assert outage.failed
    assert "are null; run the command again to ask again for" in first.err
    assert "null: no answer for now: http://127.0.0.1:1/v1: status 503" in first.err
    outage.is_over = True
    before = server.requests
    second = run(capsys, monkeypatch, server, command, *attempts)
    assert second.code == 0, second.err
    assert "no answer" not in second.err
    if command not in ("revise", "redteam", "grade"):  # there one failure leaves others unasked
        assert server.requests - before == len(outage.failed)
    if command not in ("calibrate", "near-miss"):
        assert "asked again" in second.err
    third = run(capsys, monkeypatch, server, command, *attempts)
    assert "asked again" not in third.err

    undisturbed = folder / "undisturbed"
    undisturbed.mkdir()
    write_inputs(undisturbed)
    monkeypatch.chdir(undisturbed)
    assert run(capsys, monkeypatch, Endpoint(), command).code == 0
    assert outputs(folder) == outputs(undisturbed) != {}


def null_lines(result: CommandResult) -> list[str]:
    return [line for line in result.err.splitlines() if " null" in line]


def test_lasting_failures_are_not_asked_again(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Endpoint(lambda body: Canned(b"{}", 400) if is_chosen(body) else None)
    first = run(capsys, monkeypatch, server, "label")
    assert " null: no answer: http://127.0.0.1:1/v1: status 400" in first.err
    assert "run the command again" not in first.err
    before, data = server.requests, Path("o.jsonl").read_bytes()
    second = run(capsys, monkeypatch, server, "label")
    assert server.requests == before
    assert Path("o.jsonl").read_bytes() == data
    assert null_lines(second) == null_lines(first) != [], "said again"


def test_an_outage_that_lasts_changes_nothing(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a limit in the midst of asking again loses nothing."""
    outage = Outage()
    server = Endpoint(outage)
    attempts = ("--set", "http.attempts=1")
    run(capsys, monkeypatch, server, "label", *attempts)
    data = Path("o.jsonl").read_bytes()
    outage.answered = 2
    assert run(capsys, monkeypatch, server, "label", *attempts).code in (0, 1)
    assert Path("o.jsonl").read_bytes() == data
    outage.is_over = True
    limited = run(capsys, monkeypatch, server, "label", *attempts, "--max-tokens", 800)
    assert limited.code == 1
    assert Path("o.jsonl").read_bytes() == data
    before = server.requests
    assert run(capsys, monkeypatch, server, "label", *attempts).code == 0
    assert server.requests - before < len(outage.failed), "the log has the answers"
    assert b"no answer" not in Path("o.jsonl").read_bytes()


def test_many_reasons_are_cut(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(body: dict[str, Any]) -> Canned | None:
        error = {"error": {"message": sha256(json.dumps(body).encode()).hexdigest()}}
        return Canned(json.dumps(error).encode(), 400) if is_chosen(body, 0.9) else None

    write_inputs(Path(), 40)
    result = run(capsys, monkeypatch, Endpoint(respond), "label", "--set", "http.connections=64")
    told = [line for line in result.err.splitlines() if " null: " in line]
    assert len(told) == 11
    assert told[-1].endswith(" null: for other reasons")
    assert max(map(len, told)) < 130


@pytest.mark.parametrize(
    "setting",
    ["api_key=sk-0123456789", "http.api_key=sk-0123456789", "http.api_key=[sk-0123456789",
     "api_key: sk-0123456789", "http.headers.key=sk-0123456789\x7f", "sk-0123456789@=1"],
)  # fmt: skip
def test_values_of_settings_are_not_quoted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, folder: Path, setting: str
) -> None:
    """Of a run as well: a value may be an API key."""
    (folder / "run.yaml").write_text("name: x\nconstitution: harmless\nprompts: [rows.jsonl]\n")
    told = run(capsys, monkeypatch, Endpoint(), "label", "--set", setting).usage_error
    told += run_command(capsys, "plan", "run.yaml", "--set", setting).usage_error
    assert "0123456789" not in told

"""The http back end, the request log and the budget against a real server on the loopback, faults and kills included."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from endpoint import Behaviour, endpoint, processes
from killed import STAGES, work
from tenacity import wait_none

from cai.errors import BackendError, BudgetError, StoreError, UnansweredError, UsageError
from cai.lm import FakeLM, open_lm
from cai.lm import http as back_end
from cai.lm.budget import Budget, MeteredLM, Prices
from cai.lm.caching import CachedLM
from cai.lm.chat_completions import option_logprobs
from cai.lm.http import HttpConfig, HttpLM
from cai.lm.rate_limit import MAX_RETRY_AFTER, RateLimiter, retry_after
from cai.lm.request_log import RequestLog
from cai.records import Preference, chat_of
from cai.store import read

HELLO = chat_of(("user", "Hello."))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once; that waits are as told is tested on its own."""
    monkeypatch.setattr(back_end, "retry_wait", wait_none())
    monkeypatch.delenv(back_end.API_KEY_VARIABLE, raising=False)


def ask(lm: Any, calls: Callable[[Any], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        try:
            return await calls(lm)
        finally:
            await lm.aclose()

    return asyncio.run(go())


def said(lm: Any) -> Any:
    return ask(lm, lambda it: it.sample(HELLO, max_tokens=16, temperature=1.0, seed=3))


def chosen(lm: Any) -> Any:
    return ask(lm, lambda it: it.choice_logprobs(HELLO, ("A", "B"), prefill="It is ("))


# One call


def test_a_reply_and_a_choice(tmp_path: Path) -> None:
    """The server's text, finish and token counts; its log-odds under the options' own spellings (" B" counts for B)."""
    with endpoint(tmp_path) as server:
        lm = open_lm(server.spec)
        got = said(lm)
        assert got.text.startswith("I'm sorry, but I can't help with ")
        assert (got.finished, got.prompt_tokens, got.completion_tokens) == (True, 50, 10)
        a, b = chosen(lm)
        assert a + b == pytest.approx(-2.0)  # -1 + x and -1 - x
        assert said(lm) == got


def test_options_are_found_in_any_spelling() -> None:
    """log(e^-1 + e^-2) for two spellings of A; B is not among the alternatives: the least of them. None: None."""
    top = [{"token": "A", "logprob": -1.0}, {"token": " (A", "logprob": -2.0}, {"token": "The", "logprob": -3.0}]
    answer = {"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
    assert option_logprobs(answer, ("A", "B")) == [pytest.approx(-0.6867383), -3.0]
    assert option_logprobs(answer, ("C", "D")) is None


@pytest.mark.parametrize("fault", ["500", "429", "503", "408", "cut", "drop", "empty"])
def test_what_may_pass_is_tried_again(tmp_path: Path, fault: str) -> None:
    """Three tries, no more. As the server never answered anybody, it counts as not running: the run stops."""
    with endpoint(tmp_path, always=fault) as server:
        with pytest.raises(BackendError, match="is the server running"):
            said(HttpLM(server.spec, HttpConfig(attempts=3)))
        assert [got for _, got in server.answered()] == [fault] * 3


def test_a_server_that_hangs(tmp_path: Path) -> None:
    with endpoint(tmp_path, always="hang") as server, pytest.raises(BackendError, match="read timeout"):
        said(HttpLM(server.spec, HttpConfig(attempts=2, timeout=0.2)))


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
    """Only this call fails, so that its row becomes null and the others go on."""
    with endpoint(tmp_path, always=fault) as server:
        with pytest.raises(UnansweredError, match=message):
            said(HttpLM(server.spec))
        assert len(server.answered()) == 1


def test_cut_replies_are_taken_when_allowed(tmp_path: Path) -> None:
    with endpoint(tmp_path, always="length") as server:
        assert said(HttpLM(server.spec, HttpConfig(allow=("length",)))).finished is False


def test_options_nobody_named_and_missing_logprobs(tmp_path: Path) -> None:
    with endpoint(tmp_path / "a", always="option") as server:
        assert chosen(HttpLM(server.spec)) is None
    with endpoint(tmp_path / "b", always="no logprobs") as server, pytest.raises(UnansweredError, match="no log-probabilities"):
        chosen(HttpLM(server.spec))


def test_no_server_at_all() -> None:
    with pytest.raises(BackendError, match=r"connect error: .*; is the server running"):
        said(HttpLM("http://127.0.0.1:9/v1#toy", HttpConfig(attempts=2)))


def test_many_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    """16 calls without an answer in a row: the 16th error is no longer one of a row, but of the run."""
    with endpoint(tmp_path, always="400") as server:
        lm = HttpLM(server.spec, HttpConfig(connections=1))
        for _ in range(15):
            with pytest.raises(UnansweredError):
                said(lm)
        with pytest.raises(BackendError, match="16 calls in a row without an answer") as error:
            said(lm)
        assert not isinstance(error.value, UnansweredError)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://127.0.0.1:1/v1", "write it as http://HOST:PORT/v1#MODEL"),
        ("https://me:secret@host/v1#m", "keys don't belong into the address"),
        ("http://#m", "write it as"),
    ],
)
def test_specs_that_are_none(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_lm(spec)


# Keys


def test_a_key_is_sent_and_never_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right key: an answer, and nothing of the key in the log. None, or another: one call, and the variable's name."""
    with endpoint(tmp_path / "s", key="sk-123456") as server:
        with pytest.raises(BackendError, match=r"401: .*environment variable CAI_API_KEY: it is not set") as error:
            said(HttpLM(server.spec))
        assert not isinstance(error.value, UnansweredError)
        monkeypatch.setenv("CAI_API_KEY", "sk-654321")
        with pytest.raises(BackendError, match="the key in it was refused") as error:
            said(HttpLM(server.spec))
        assert "sk-654321" not in str(error.value)
        assert len(server.answered()) == 2
        monkeypatch.setenv("CAI_API_KEY", "sk-123456")
        lm = CachedLM(HttpLM(server.spec), RequestLog(tmp_path / "log.sqlite"))
        assert said(lm).text
        assert "sk-123456" not in lm.fingerprint
    lm.log.close()
    assert b"sk-123456" not in b"".join(file.read_bytes() for file in tmp_path.glob("log.sqlite*"))


def test_servers_words_are_told_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that echoes the key in an error: the message has stars in its place."""
    monkeypatch.setenv("CAI_API_KEY", "said with status")
    with endpoint(tmp_path, always="400") as server, pytest.raises(UnansweredError, match=r"status 400: \*\*\* 400"):
        said(HttpLM(server.spec))


# Pace


def test_pace_lets_so_much_through_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """600 a minute: 10 a second, 60 of them at once. Of 80 wanted at one moment the last waits 2 s; 30 given back help."""
    now, slept = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def go() -> None:
        pace = RateLimiter(600)
        for _ in range(8):
            await pace.acquire(10)
        pace.adjust(-30)  # level -20 -> 10
        await pace.acquire(10)
        now[0] = 100.0  # full again: 60, not 1000
        await pace.acquire(70)
        await RateLimiter(None).acquire(1e9)

    asyncio.run(go())
    assert slept == [pytest.approx(1.0), pytest.approx(2.0), pytest.approx(1.0)]


def test_retry_after() -> None:
    assert retry_after("2.5") == 2.5
    assert retry_after("-3") == 0.0
    assert retry_after("1e9") == MAX_RETRY_AFTER
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [retry_after(text) for text in (None, "soon", "nan")] == [None, None, None]


def test_the_server_is_waited_for_as_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with Retry-After 0.01: the policy is asked with that number after each of 2 tries; a 500 without it: with none."""
    told = []

    def wait(state: Any) -> float:
        told.append(state.outcome.exception().wait)
        return 0.0

    monkeypatch.setattr(back_end, "retry_wait", wait)
    for fault in ("429", "500"):
        with endpoint(tmp_path / fault, always=fault) as server, pytest.raises(BackendError):
            said(HttpLM(server.spec, HttpConfig(attempts=2)))
    assert told == [0.01, 0.01, None, None]


# Request log


def test_no_call_is_made_twice(tmp_path: Path) -> None:
    """Equal calls: asked once, also when they are under way together; another seed, chat or model is another call."""
    fake = FakeLM(lambda chat, seed: f"{chat[-1].content} {seed}", lambda chat, choices: [-1.0, -2.0])
    lm = CachedLM(fake, RequestLog(tmp_path / "log.sqlite"))

    async def calls(it: Any) -> list[Any]:
        jobs = [it.sample(HELLO, max_tokens=9, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
        return [
            *await asyncio.gather(*jobs),
            await it.choice_logprobs(HELLO, ("A", "B")),
            await it.choice_logprobs(HELLO, ("A", "B")),
        ]

    first = ask(lm, calls)
    assert [s.text for s in first[:3]] == ["Hello. 1", "Hello. 1", "Hello. 2"]
    assert first[3:] == [[-1.0, -2.0]] * 2
    assert len(fake.calls) == 3
    again = CachedLM(fake, RequestLog(tmp_path / "log.sqlite"))  # another process would open it so
    assert ask(again, calls) == first
    assert len(fake.calls) == 3
    other = FakeLM(fake.reply, fake.odds)
    other.fingerprint = "another"
    ask(CachedLM(other, again.log), calls)
    assert len(other.calls) == 3
    assert [(model, kind, count) for model, kind, count, *_ in again.log.stats()] == [
        ("another", "choice", 1), ("another", "sample", 2), (fake.fingerprint, "choice", 1), (fake.fingerprint, "sample", 2),
    ]  # fmt: skip
    assert again.log.prune(model="another") == 3
    assert len(list(again.log.rows())) == 3
    with pytest.raises(StoreError, match="no calls selected"):
        again.log.prune()


def test_failures_are_not_kept(tmp_path: Path) -> None:
    """A call that fails is asked again the next time, and those who waited for it get its error too."""
    fails = [True]

    def reply(chat: Any, seed: int) -> str:
        if fails[0]:
            raise UnansweredError("not now")
        return "now"

    lm = CachedLM(FakeLM(reply), RequestLog(tmp_path / "log.sqlite"))
    with pytest.raises(UnansweredError):
        said(lm)
    fails[0] = False
    assert said(lm).text == "now"


def test_what_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("this is no database, and long enough to be read as one" * 20)
    with pytest.raises(StoreError, match=r"x\.sqlite: not a request log"):
        RequestLog(tmp_path / "x.sqlite")
    with pytest.raises(StoreError, match="no such request log"):
        RequestLog(tmp_path / "y.sqlite", create=False)


# Budget


@pytest.mark.parametrize(
    ("limit", "name"), [({"max_tokens": 120}, "--max-tokens 120"), ({"max_cost": 0.0009}, "--max-cost 0.0009")]
)
def test_a_budget_ends_the_run_and_the_log_goes_on(tmp_path: Path, limit: dict[str, float], name: str) -> None:
    """A call takes 50 + 10 tokens, and at 5 and 20 per million 0.00045. Two calls reach either limit; the third isn't made.
    Run again with the limit anew: the two come from the log, and two more are made."""
    prices = Prices(prompt=5, completion=20)
    with endpoint(tmp_path / "s") as server:
        for run in (1, 2):
            budget = Budget(**limit)
            lm = CachedLM(MeteredLM(HttpLM(server.spec), budget, prices), RequestLog(tmp_path / "log.sqlite"))

            async def calls(it: Any) -> None:
                for seed in range(10):
                    await it.sample(HELLO, max_tokens=16, temperature=1.0, seed=seed)

            with pytest.raises(BudgetError, match=f"{name} is reached .*run again"):
                ask(lm, calls)
            assert (budget.calls, budget.tokens) == (2, 120)
            assert budget.cost == pytest.approx(0.0009)
            assert len(server.answered()) == 2 * run


def test_hours_are_a_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(max_hours=0.5)
    budget.check()
    budget.started -= 1801
    with pytest.raises(BudgetError, match=r"--max-hours 0\.5 is reached"):
        budget.check()


# Kills and faults


def logged(folder: Path) -> int:
    """Calls in the request log of a process that has just been killed."""
    if not (folder / "requests.sqlite").exists():
        return 0
    with sqlite3.connect(folder / "requests.sqlite") as db:
        try:
            return int(db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
        except sqlite3.OperationalError:  # killed before the table was there
            return 0


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_moment_pays_nothing_twice(tmp_path: Path, stage: str) -> None:
    """500 rows; SIGKILL at 20 seeded moments, spread over the calls of the whole run. At the end: the bytes of a run that was
    never killed, and no call asked again that the log had an answer to. Only answers that were on the wire at a kill (at most
    one a connection) may have been asked twice."""
    connections, count = 8, 500
    http = {"connections": connections}
    with endpoint(tmp_path / "a") as server:
        (tmp_path / "whole").mkdir()
        work(stage, server.spec, tmp_path / "whole", count, http)
        calls = len(server.answered())
    assert calls == {"revise": 3, "pair": 2, "label": 2}[stage] * count
    stream, kills, on_the_wire = random.Random(f"kill {stage}"), 0, 0
    folder = tmp_path / "killed"
    folder.mkdir()
    with endpoint(tmp_path / "b", latency=0.002) as server:
        for moment in sorted(stream.randrange(calls) for _ in range(20)):
            process = processes.Process(target=work, args=(stage, server.spec, folder, count, http))
            process.start()
            while server.log_file.stat().st_size < moment * 68 and process.is_alive():  # 64 digits, " ok", end of line
                time.sleep(0.001)
            time.sleep(stream.random() * 0.01)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            on_the_wire += connections
            time.sleep(0.01)
            before = len(server.answered())
            assert before - logged(folder) <= on_the_wire
        work(stage, server.spec, folder, count, http)
        asked = Counter(name for name, _ in server.answered())
    assert kills == 20
    assert (folder / f"{stage}.jsonl").read_bytes() == (tmp_path / "whole" / f"{stage}.jsonl").read_bytes()
    assert len(asked) == calls
    assert sum(asked.values()) - calls <= on_the_wire


def test_faults_change_no_label(tmp_path: Path) -> None:
    """1,000 pairs, 30 % of requests meeting one of seven faults: each row has the label of the run without faults, or null and
    a reason. A judge that names neither option is the only fault that lasts, and 6 tries rarely fail in a row: few are null."""
    found = {}
    for name, faults in (("clean", 0.0), ("faulty", 0.3)):
        (tmp_path / name).mkdir()
        with endpoint(tmp_path / f"server {name}", faults=faults, hang=1.0) as server:
            work("label", server.spec, tmp_path / name, 1000, {"connections": 32, "timeout": 0.3})
            if faults:
                met = Counter(fault for _, fault in server.answered())
        found[name] = list(read(tmp_path / name / "label.jsonl", Preference))
    assert len(found["clean"]) == len(found["faulty"]) == 1000
    assert all(row.p_first is not None for row in found["clean"])
    assert set(met) == {"ok", *Behaviour().kinds}
    for right, row in zip(found["clean"], found["faulty"], strict=True):
        assert row.source == right.source
        assert row.p_first == right.p_first if row.p_first is not None else row.unscored
    null = [row for row in found["faulty"] if row.p_first is None]
    assert 20 <= len(null) <= 150  # two calls a row, 0.3 / 7 of them with a judge that names neither: about 84
    assert {row.unscored for row in null} >= {"the judge named none of the options"}


def test_the_log_can_be_exported(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "log.sqlite")
    said(CachedLM(FakeLM(lambda chat, seed: "Well."), log))
    row = next(log.rows())
    assert row["request"]["chat"] == [{"role": "user", "content": "Hello."}]
    assert row["request"]["seed"] == 3
    assert json.loads(json.dumps(row))["answer"]["text"] == "Well."

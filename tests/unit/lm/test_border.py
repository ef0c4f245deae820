"""The border check: one odd answer is a reply, or a null with a reason. It never stops a run."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answer_fuzz import fuzz
from canned import Canned, CannedLM, always, choice_answer, ok, reply_answer
from lm_calls import choose_a_or_b, run_calls, sample_hello, user_chat

from cai.errors import BackendError, UnansweredError
from cai.lm.base import RefusedAnswerError
from cai.lm.body import MAX_ANSWER_BYTES
from cai.lm.caching import CachedLM
from cai.lm.http import HttpConfig
from cai.lm.request_log import RequestLog
from cai.modeling.thoughts import split_thoughts

Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    "usage",
    [None, "n/a", [1], 7, {"prompt_tokens": "12.5"}, {"prompt_tokens": 10**30}, {"x": True}, -1,
     {"prompt_tokens": -3, "completion_tokens": math.nan}, {"completion_tokens": True}],
)  # fmt: skip
def test_counts_that_are_none_are_estimated(usage: Any) -> None:
    """Two characters: 5 prompt tokens for "Hello.", and 2 for "Well."."""
    got = sample_hello(CannedLM(always(reply_answer() | {"usage": usage})))
    assert (got.text, got.prompt_tokens, got.completion_tokens) == ("Well.", 5, 2)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Nice \ud83d day", "Nice \ufffd day"),
        ("Nice \u0000 day", "Nice \u0000 day"),
        ([{"type": "text", "text": "In "}, {"type": "text", "text": "parts."}], "In parts."),
        ("", ""),
    ],
)
def test_odd_texts_are_taken(tmp_path: Path, content: Any, text: str) -> None:
    """A file can hold the text, and the log gives it again."""
    lm = CachedLM(CannedLM(always(reply_answer(content))), RequestLog(tmp_path / "log.sqlite"))
    assert sample_hello(lm).text == text
    assert sample_hello(lm).text.encode() == text.encode()


@pytest.mark.parametrize(
    "content",
    [None, 7, {}, [{"type": "image"}], [], ["a"]],
)
def test_replies_without_text(content: Any) -> None:
    with pytest.raises(UnansweredError, match="the reply has no text"):
        sample_hello(CannedLM(always(reply_answer(content))))


def test_a_refusal_of_the_server_is_quoted() -> None:
    answer = reply_answer(None)
    answer["choices"][0]["message"]["refusal"] = "I won't."
    with pytest.raises(UnansweredError, match=r"the server refused: I won't\."):
        sample_hello(CannedLM(always(answer)))


def test_an_error_with_status_200_is_quoted() -> None:
    answer = {"error": {"message": "No endpoints support logprobs", "code": 404}}
    lm = CannedLM(always(answer))
    with pytest.raises(BackendError, match="the answer is an error: No endpoints support logprobs"):
        choose_a_or_b(lm)
    assert lm.requests == 3


# ---- whole replies only ----


@pytest.mark.parametrize("reason", ["stop", "eos", "STOP", "eos_token"])
def test_a_reply_that_the_model_ended(reason: str) -> None:
    assert sample_hello(CannedLM(always(reply_answer("Well.", reason)))).finished


@pytest.mark.parametrize(
    ("reason", "said"),
    [("abort", "ended by abort"), ("error", "ended by error"), ("MAX_TOKENS", "ended by length"),
     ("tool_calls", "ended by tool_calls"), (None, "no finish_reason"), (7, "no finish_reason"),
     ("", "no finish_reason"), ("content_filter", "ended by content_filter")],
)  # fmt: skip
def test_no_other_reply_is_whole(reason: Any, said: str) -> None:
    with pytest.raises(UnansweredError, match=f"{said}, which http.allow does not list"):
        sample_hello(CannedLM(always(reply_answer("Well", reason))))


@pytest.mark.parametrize(("reason", "allow"), [("MAX_TOKENS", "length"), (None, "missing")])
def test_what_is_allowed_is_not_whole_either(reason: Any, allow: Any) -> None:
    lm = CannedLM(always(reply_answer("Well", reason)), HttpConfig(allow=(allow,)))
    assert sample_hello(lm).finished is False


@pytest.mark.parametrize(
    ("text", "cut", "is_closed"),
    [
        ("No tags.", "No tags.", True),
        (" <b> a < b ", " <b> a < b ", True),
        ("<think>\nHmm.\n</think>\n\nYes.", "Yes.", True),
        ("Hmm.\n</think>\nYes.", "Yes.", True),
        ("<think>a<think>b</think>c</think> Yes.", "Yes.", True),
        ("One. <thinking>x</thinking> Two.", "One.  Two.", True),
        ("[THINK]x[/THINK]Yes.", "Yes.", True),
        ("<THINK>Hmm", "", False),
        ("Yes. <think>but", "Yes.", False),
        ("</think>", "", True),
        ("<seed:think>x</seed:think>Yes.", "Yes.", True),
        ("<|START_THINKING|>x<|END_THINKING|>Yes.", "Yes.", True),
        (
            "<|channel|>analysis<|message|>x<|end|><|start|>assistant"
            "<|channel|>final<|message|>Yes.<|return|>",
            "Yes.",
            True,
        ),
        ("<|channel|>analysis<|message|>x", "", False),
        ("<think>" * 100_000, "", False),
    ],
)
def test_thoughts_are_cut(text: str, cut: str, is_closed: bool) -> None:
    assert split_thoughts(text)[:2] == (cut, is_closed)


def test_thoughts_never_leave_the_border() -> None:
    assert sample_hello(CannedLM(always(reply_answer("<think>x</think>Yes.")))).text == "Yes."
    with pytest.raises(UnansweredError, match="ends within its thoughts"):
        sample_hello(CannedLM(always(reply_answer("<think>x"))))


# ---- log-probabilities ----


@pytest.mark.parametrize(
    ("top", "a", "b"),
    [
        ([("\u0120A", -0.2), ("\u2581B", -1.8)], -0.2, -1.8),
        ([("<0x41>", -0.2), (" (B)", -1.8)], -0.2, -1.8),
        ([("A", math.log(0.8)), ("B", -9999.0)], math.log(0.8), math.log(0.2)),
        ([("A", 0.05), ("B", -3.0)], 0.0, -3.0),
        # B is not listed: at most what A and the others leave
        ([("A", math.log(0.8))], math.log(0.8), math.log(0.2)),
        ([("A", math.log(0.7)), ("The", math.log(0.2))], math.log(0.7), math.log(0.1)),
        ([("A", math.log(0.8)), ("B", -math.inf)], math.log(0.8), math.log(0.2)),
        ([("A", math.log(0.8)), ("B", -1e308)], math.log(0.8), math.log(0.2)),
        ([("A", -0.0)], 0.0, math.log(1e-6)),
    ],
)
def test_options_and_what_is_left_for_the_other(top: Any, a: float, b: float) -> None:
    got = choose_a_or_b(CannedLM(always(choice_answer(*top))))
    assert got == pytest.approx([a, b], abs=1e-9)


@pytest.mark.parametrize(
    "top",
    [
        [("A", math.log(0.3)), ("The", math.log(0.2))],
        [("A", math.log(0.3)), ("The", math.log(0.6))],
        [("A", -700.0), ("B", -1.75), ("The", -4.0)],
        [("The", -0.1)],
        [("A", -20.0)],
    ],
)
def test_an_option_that_might_be_the_lesser_says_nothing(top: Any) -> None:
    """A has 0.3 and 0.5 is not listed: B may have more than A."""
    assert choose_a_or_b(CannedLM(always(choice_answer(*top)))) is None


@pytest.mark.parametrize(
    "top",
    [
        [],
        [("A", 700.0), ("B", -1.0)],
        [("A", 1e308), ("B", -1e308)],
        [("A", math.nan), ("B", -1.0)],
        [("A", math.inf), ("B", -1.0)],
        [("A", "-0.1"), ("B", None)],
        [("A", True), ("B", -1.0)],
        [(None, -0.1), ("B", -1.0)],
        [("A", -0.1), ("B", -0.1)],  # 1.8 of certainty
        [("A", -0.1), ("B", 10**400)],
    ],
)
def test_log_probabilities_out_of_range_are_none(top: Any) -> None:
    with pytest.raises(UnansweredError, match="no log-probabilities"):
        choose_a_or_b(CannedLM(always(choice_answer(*top))))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply_answer(), "no log-probabilities: the server must support logprobs and top_logprobs"),
        (choice_answer(("<think>", -0.0), ("<", -9.0)), "begins with <think>"),
    ],
)
def test_a_judge_without_numbers_is_stopped(answer: Any, reason: str) -> None:
    """Two calls fail alone; the third, after which no other is queued, stops the run."""
    lm = CannedLM(always(answer))
    for _ in range(2):
        with pytest.raises(RefusedAnswerError):
            choose_a_or_b(lm)
    with pytest.raises(BackendError, match=f"3 answers, and none to judge by: .*{reason}") as error:
        choose_a_or_b(lm)
    assert not isinstance(error.value, UnansweredError)
    assert lm.requests == 3


def test_a_judge_without_numbers_is_stopped_among_many_calls() -> None:
    """Of 500 calls at once, with 2 connections, the eighth answer stops the run."""
    lm = CannedLM(always(reply_answer()), HttpConfig(connections=2))

    async def calls(lm: Any) -> list[Any]:
        chats = [user_chat(str(number)) for number in range(500)]
        jobs = [lm.choice_logprobs(chat, ("A", "B")) for chat in chats]
        return await asyncio.gather(*jobs, return_exceptions=True)

    errors = run_calls(lm, calls)
    assert sum(isinstance(error, RefusedAnswerError) for error in errors) == 7
    assert "8 answers, and none to judge by" in str(errors[-1])
    assert lm.requests <= 9


# ---- bytes and seconds ----


def test_bodies_are_bounded_before_and_after_decoding() -> None:
    """17 MiB as they are; 17 MiB of zeros that gzip makes of 17 kB."""
    data = b" " * (MAX_ANSWER_BYTES + 1)
    for canned in (
        Canned(data),
        Canned(gzip.compress(data), headers=[("content-encoding", "gzip")]),
    ):
        with pytest.raises(BackendError, match="the answer is larger than 16 MiB"):
            sample_hello(CannedLM(always(canned), HttpConfig(attempts=1)))


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("identity", bytes),
    ],
)
def test_encodings_that_are_read(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    body = encode(json.dumps(reply_answer()).encode())
    lm = CannedLM(always(Canned(body, headers=[("content-encoding", encoding)])))
    assert sample_hello(lm).text == "Well."


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x, y"])
def test_encodings_that_are_not(encoding: str) -> None:
    canned = Canned(json.dumps(reply_answer()).encode(), headers=[("content-encoding", encoding)])
    lm = CannedLM(always(canned))
    with pytest.raises(BackendError, match=r"Content-Encoding|claims to be"):
        sample_hello(lm)
    assert lm.requests == 3


# ---- what older versions logged ----


@pytest.mark.parametrize(
    "logged",
    [
        '{"text": "half \\ud83d", "finished": true, "prompt_tokens": 1, "completion_tokens": 1}',
        '{"text": 7}',
        "[1, 2]",
    ],
)
def test_an_odd_logged_answer_stops_no_rerun(tmp_path: Path, logged: str) -> None:
    log = RequestLog(tmp_path / "log.sqlite")
    sample_hello(CachedLM(CannedLM(always(reply_answer())), log))
    with sqlite3.connect(log.path) as db:
        db.execute("UPDATE calls SET answer = ?", (logged,))
    got = sample_hello(CachedLM(CannedLM(always(reply_answer())), log))
    assert got.text.encode() in (b"Well.", "half \ufffd".encode())
    list(log.rows())


@pytest.mark.parametrize("logged", ["[1e308, -1e308]", "[NaN, -1.0]", '["a", "b"]', "7"])
def test_odd_logged_numbers_are_asked_for_again(tmp_path: Path, logged: str) -> None:
    log = RequestLog(tmp_path / "log.sqlite")
    lm = CannedLM(always(choice_answer(("A", -0.2), ("B", -1.8))))
    choose_a_or_b(CachedLM(lm, log))
    with sqlite3.connect(log.path) as db:
        db.execute("UPDATE calls SET answer = ?", (logged,))
    for _ in range(2):
        assert choose_a_or_b(CachedLM(lm, log)) == [-0.2, -1.8]
    assert lm.requests == 2


# ---- fuzz ----


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_answers(tmp_path: Path, seed: int) -> None:
    """500 pairs and 1,000 answers, most of them mutated: see `answer_fuzz.fuzz`."""
    counts = fuzz(tmp_path, 500, seed)
    assert counts["label"] > 50
    assert counts["null"] > 50


def test_ok_answers_are_ok() -> None:
    assert ok(reply_answer()).status == 200

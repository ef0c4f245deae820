"""What comes before and after Ray's processors, without Ray: functions, files, calls."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from endpoint import answer_to, endpoint, processes

from cai.errors import JobError
from cai.integrations import ray_data, ray_processors
from cai.integrations.ray_calls import CallResult, EndpointCalls
from cai.integrations.ray_tables import read_answers
from cai.lm.batch import Batch
from cai.lm.batch_files import custom_id
from cai.lm.chat_completions import parse_answer
from cai.lm.http_config import HttpConfig
from cai.lm.option_logprobs import option_logprobs

NAMES = [f"label-{number:032}" for number in range(4)]


def body_of(question: str, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": question}
    return {"messages": [message], "max_tokens": 8, "model": "toy", **fields}


BODIES = dict(zip(NAMES, map(body_of, ("One?", "Two?", "Three?", "Four?")), strict=True))


async def send(calls: EndpointCalls, bodies: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What Ray's HTTP stage does with a batch: all requests, then all responses."""
    async with calls() as session:
        sent: list[asyncio.Task[CallResult]] = []
        for name, body in bodies.items():
            payload = ray_processors.http_request({"id": name, "body": json.dumps(body)})["payload"]
            sent.append(session.post("http://ignored", headers={}, data=json.dumps(payload)))
        results = []
        for call in sent:
            async with await call as response:
                assert response.status == 200
                results.append(await response.json())
    assert calls.lm is not None
    await calls.lm.aclose()
    return results


def test_a_batch_that_is_repeated_calls_for_what_it_lacks(tmp_path: Path) -> None:
    """The first worker is killed after two answers, in the middle of a third."""
    received = tmp_path / "received"
    with endpoint(tmp_path / "server") as server:
        config = HttpConfig(connections=4)
        first = EndpointCalls(server.spec, config, 2, received)
        begun = dict(list(BODIES.items())[:2])
        answers = asyncio.run(send(first, begun))
        (file,) = received.iterdir()
        with file.open("ab") as opened:
            opened.write(b'{"custom_id": "label-000')
        again = asyncio.run(send(EndpointCalls(server.spec, config, 2, received), BODIES))
        assert len(server.answered()) == len(BODIES)
    assert [json.loads(row["answer"]) for row in again] == [
        answer_to(body) for body in BODIES.values()
    ]
    assert again[:2] == answers
    left = read_answers(tmp_path)
    assert all(left.find(name) is not None for name in NAMES)


CONNECTIONS = 4


def answer_batch(spec: str, received: Path, bodies: dict[str, dict[str, Any]]) -> None:
    """A worker with one batch, in a process that is killed."""
    calls = EndpointCalls(spec, HttpConfig(connections=CONNECTIONS), 1, received)
    asyncio.run(send(calls, bodies))


def test_only_calls_under_way_are_made_again(tmp_path: Path) -> None:
    """A worker is killed in a batch: an answer that it has received is in its file, and is not
    requested again. What is, are the calls that it waited for.
    """
    unnamed = [body_of(f"Question {number}?") for number in range(24)]
    bodies = {custom_id("label", body): body for body in unnamed}
    received = tmp_path / "received"
    with endpoint(tmp_path / "server", latency=0.05) as server:
        worker = processes.Process(target=answer_batch, args=(server.spec, received, bodies))
        worker.start()
        while len(server.answered()) < len(bodies) // 2:
            time.sleep(0.01)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        kept = set(read_answers(tmp_path).received.offsets)
        assert 0 < len(kept) < len(bodies)
        answer_batch(server.spec, received, bodies)
        answered = Counter(f"label-{digest[:32]}" for digest, _ in server.answered())
    repeated = {name for name, count in answered.items() if count > 1}
    assert answered.keys() == bodies.keys()
    assert repeated.isdisjoint(kept)
    assert answered.total() - len(bodies) <= CONNECTIONS
    answers = read_answers(tmp_path)
    for name, body in bodies.items():
        assert json.loads(answers.find(name) or b"") == answer_to(body)


def test_a_call_that_fails_alone(tmp_path: Path) -> None:
    with endpoint(tmp_path / "server", always="400") as server:
        calls = EndpointCalls(server.spec, HttpConfig(attempts=1), 1, tmp_path / "received")
        rows = asyncio.run(send(calls, BODIES))
    assert [row["answer"] for row in rows] == [None] * 4
    assert all("status 400" in row["error"] for row in rows)


def test_the_limits_are_those_of_all_workers(tmp_path: Path) -> None:
    """6 connections and 120 requests a minute, for 4 workers."""
    config = HttpConfig(connections=6, requests_per_minute=120)
    share = EndpointCalls("http://127.0.0.1:1/v1#toy", config, 4, tmp_path).config
    assert (share.connections, share.requests_per_minute) == (1, 30)
    assert share.tokens_per_minute is None


ENGINE_ROW = {
    "num_input_tokens": 9,
    "num_generated_tokens": 1,
    "generated_tokens": [317],
    "generated_text": "A",
    "logprobs": [
        {
            317: {"logprob": -0.25, "rank": 1, "decoded_token": "A"},
            426: {"logprob": -1.5, "rank": 2, "decoded_token": " B"},
        }
    ],
}
"""Columns of `vLLMOutputData` in Ray 2.60."""


@pytest.mark.parametrize("key", [int, str])
def test_an_engine_s_output_as_an_answer(key: type) -> None:
    """A table may turn token ids into text, and add the tokens of other rows without a value."""
    step = {key(token): entry for token, entry in ENGINE_ROW["logprobs"][0].items()}
    body = body_of("A or B?", logprobs=True, top_logprobs=20) | {"max_tokens": 1}
    row = ENGINE_ROW | {"id": "x", "body": json.dumps(body), "logprobs": [step | {key(1): None}]}
    answer = parse_answer(ray_processors.engine_answer(row)["answer"].encode(), "")
    assert option_logprobs(answer, ("A", "B")) == [-0.25, -1.5]
    request = ray_processors.engine_request(row)
    assert request["messages"] == body["messages"]
    assert (request["sampling_params"]["logprobs"], request["sampling_params"]["stop"]) == (
        20,
        None,
    )


@pytest.mark.parametrize(("tokens", "reason"), [(7, "stop"), (8, "length")])
def test_a_reply_that_fills_its_limit_counts_as_cut(tokens: int, reason: str) -> None:
    row = ENGINE_ROW | {"id": "x", "body": json.dumps(body_of("Hi")), "logprobs": None}
    row["num_generated_tokens"] = tokens
    answer = parse_answer(ray_processors.engine_answer(row)["answer"].encode(), "")
    assert (answer.text, answer.finish_reason) == ("A", reason)
    assert (answer.prompt_tokens, answer.completion_tokens) == (9, tokens)


def test_a_deployment_s_error_is_no_answer() -> None:
    """Ray passes a server's refusal on as it does an answer, with the columns that a table adds."""
    error = {"message": "context too long", "code": 400, "param": None}
    row = ray_processors.deployment_answer({"id": "x", "choices": None, "error": error})
    assert ray_processors.outcome(row) == {"id": "x", "answer": None, "error": "context too long"}
    row = ray_processors.deployment_answer({"id": "x", "choices": [], "error": "busy"})
    assert row["error"] == "busy"
    row = ray_processors.deployment_answer({"id": "x", "choices": [1, 2], "error": None})
    assert (row["answer"], row["error"]) == ('{"choices": [1, 2]}', None)


def test_a_failed_row_is_one_with_a_reason() -> None:
    row = {
        "id": "x",
        "body": "{}",
        "__inference_error__": "RayTaskError: File x\n too long" + "g" * 500,
    }
    failed = ray_processors.outcome(row)
    assert (failed["id"], failed["answer"]) == ("x", None)
    assert failed["error"].startswith("too long")
    assert len(failed["error"]) == ray_processors.MAX_REASON


def test_the_last_wave_with_an_answer_counts(tmp_path: Path) -> None:
    """Also beside a table that a kill has cut, and one that is not Ray's."""
    waves = [[("a", "1", None), ("b", None, "busy")], [("a", "2", None), ("b", None, "late")]]
    for number, rows in enumerate(waves):
        folder = tmp_path / "answers" / str(number)
        folder.mkdir(parents=True)
        table = pa.table(dict(zip(("id", "answer", "error"), zip(*rows, strict=True), strict=True)))
        pq.write_table(table, folder / "0.parquet")
        (folder / "1.parquet").write_bytes((folder / "0.parquet").read_bytes()[:100])
        pq.write_table(pa.table({"id": [b"\x80"], "answer": [b"\x80"]}), folder / "2.parquet")
    answers = read_answers(tmp_path)
    assert answers.find("a") == b"2"
    assert answers.find("b") is None
    assert answers.errors == {"b": "late"}


def test_waves_end_where_one_brings_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three requests, of which a wave answers the first that is open; the last never."""
    answerable = list(NAMES[:2])
    waves: list[int] = []

    def answer_wave(requests: list[Path], answers: Path, config: object) -> None:
        names = [row["id"] for path in requests for row in pq.read_table(path).to_pylist()]
        waves.append(len(names))
        next_one = answerable.pop(0) if answerable else None
        rows = [(n, "{}" if n == next_one else None, "busy") for n in names]
        answers.mkdir(parents=True)
        table = pa.table(dict(zip(("id", "answer", "error"), zip(*rows, strict=True), strict=True)))
        pq.write_table(table, answers / "0.parquet")

    def run_pass(batch: Batch) -> bool:
        for name in NAMES[:3]:
            if batch.answers.find(name) is None:
                assert batch.sink is not None
                batch.sink.add(name, {})
                batch.open_ids.add(name)
        return not batch.open_ids

    monkeypatch.setattr(ray_data, "answer_wave", answer_wave)
    with pytest.raises(JobError) as error:
        ray_data.answer_in_waves("label", tmp_path / "ray", None, run_pass)
    assert str(error.value) == ("label: 1 requests have no answer: 1 busy; run again to ask again")
    assert waves == [3, 2, 1]
    answerable.append(NAMES[2])
    ray_data.answer_in_waves("label", tmp_path / "ray", None, run_pass)
    assert waves == [3, 2, 1, 1]
    assert not (tmp_path / "ray").exists()

"""Stages through Ray Data on a local cluster of two nodes: the rows are those of a plain run,
whatever is killed on the way, and what has an answer is not requested again.

`CAI_RAY_ROWS=2000` runs them at the size that the documentation cites.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from cli_runner import Capture, run_command
from endpoint import Endpoint, answer_to, endpoint
from json_lines import write_lines
from pydantic import BaseModel, ConfigDict

from cai.integrations import ray_processors
from cai.integrations.ray_tables import RequestTables, read_answers
from cai.lm.chat_completions import parse_answer
from cai.records import Pair, chat_of

ray = pytest.importorskip("ray", reason="Ray is not installed: it is an extra (cai[ray])")
pytestmark = [
    pytest.mark.slow,  # starting Ray takes seconds, and a minute on a busy machine
    pytest.mark.filterwarnings("ignore"),  # Ray's
]
ROWS = int(os.environ.get("CAI_RAY_ROWS", "100"))
CONNECTIONS = 8
OUTPUTS = {"revise": "10-revisions.jsonl", "label": "40-preferences.jsonl"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    running = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    running.add_node(num_cpus=1)
    yield running.address
    running.shutdown()


def write_run(folder: Path, spec: str) -> Path:
    """A run of an endpoint, with its prompts and pairs."""
    (folder / "run").mkdir(parents=True)
    kinds = ("disallowed", "benign")
    lines = [{"prompt": f"Question number {i}?", "kind": kinds[i % 2]} for i in range(2 * ROWS)]
    write_lines(folder / "prompts.jsonl", *lines)
    file = folder / "run.yaml"
    file.write_text(
        f"name: toy\nmodel: {spec}\nconstitution: assistant\nprompts: [prompts.jsonl]\n"
        f"held_out: 0.5\nfolder: {folder}/run\nlabel: {{principles: 1}}\n"
        f"http: {{connections: {2 * CONNECTIONS}}}\n",
        encoding="utf-8",
    )
    pairs = [
        Pair(source=str(i), chat=chat_of(("user", f"Q{i}?")), first=f"One {i}.", second=f"Two {i}.")
        for i in range(ROWS)
    ]
    (folder / "run" / "30-pairs.jsonl").write_text("".join(p.line() + "\n" for p in pairs))
    return file


def new_run(capsys: Capture, folder: Path, spec: str) -> Path:
    """The same, with the stage `prompts` done."""
    file = write_run(folder, spec)
    assert run_command(capsys, "run", file, "--until", "prompts").code == 0
    return file


def answered(server: Endpoint, since: int = 0) -> Counter[str]:
    """Requests that got an answer -> how often."""
    return Counter(digest for digest, fault in server.answered()[since:] if fault == "ok")


def times_answered(counts: Counter[str], stage: str, names: Collection[str]) -> set[int]:
    """How often requests of these names got an answer; empty if there is no name."""
    named = {f"{stage}-{digest[:32]}": count for digest, count in counts.items()}
    return {named[name] for name in names}


def report(capsys: Capture, line: str) -> None:
    """A figure for the documentation."""
    with capsys.disabled():
        print(f"\n{line}")


def once_answered(server: Endpoint, count: int, act: Callable[[], None]) -> threading.Thread:
    """Do something when the server has answered `count` more requests."""
    goal = len(server.answered()) + count

    def wait() -> None:
        while len(server.answered()) < goal:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def ray_workers(server: Endpoint) -> list[psutil.Process]:
    """The processes of Ray that are connected to the endpoint."""
    port = int(server.spec.partition("/v1")[0].rpartition(":")[2])
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "HttpRequestUDF" in " ".join(process.info["cmdline"] or ())
        and any(line.raddr and line.raddr.port == port for line in process.net_connections())
    ]


def kill_one_of_two_workers(server: Endpoint, folder: Path) -> set[str]:
    """Names of the requests of which an answer is in the files of a folder of waves at that time.

    The worker is stopped first, so that it writes nothing while the files are read.
    """
    while len(workers := ray_workers(server)) < 2:
        time.sleep(0.05)
    os.kill(workers[0].pid, signal.SIGSTOP)
    while workers[0].status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)
    kept = set(read_answers(folder).received.offsets)
    os.kill(workers[0].pid, signal.SIGKILL)
    return kept


@pytest.mark.parametrize("stage", ["revise", "label"])
def test_the_rows_of_a_plain_run_though_a_worker_is_killed(
    capsys: Capture,
    tmp_path: Path,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    """Two workers call at the same time. What is made again are calls that the killed one waited
    for: no more than it has connections, and none whose answer it had.
    """
    if ROWS < 1000:
        monkeypatch.setattr(ray_processors, "ROWS_PER_TASK", 16)
        monkeypatch.setattr(ray_processors, "HTTP_BATCH", 16)
    with endpoint(tmp_path / "server", latency=0.2) as server:
        plain = new_run(capsys, tmp_path / "plain", server.spec)
        assert run_command(capsys, stage, plain, "--set", "http.connections=64").code == 0
        before = len(server.answered())
        calls = answered(server)
        file = new_run(capsys, tmp_path / "ray", server.spec)
        waves = tmp_path / "ray" / "run" / "ray" / stage
        kept: set[str] = set()
        killer = once_answered(
            server, ROWS // 3, lambda: kept.update(kill_one_of_two_workers(server, waves))
        )
        done = run_command(capsys, "ray", stage, file, "--address", cluster)
        assert done.code == 0, done.err
        killer.join(1)
        assert not killer.is_alive(), "a worker was killed"
        rows = [tmp_path / way / "run" / OUTPUTS[stage] for way in ("plain", "ray")]
        assert rows[0].read_bytes() == rows[1].read_bytes()
        through_ray = answered(server, before)
        assert through_ray.keys() == calls.keys()
        repeated = through_ray.total() - len(calls)
        report(capsys, f"{stage}: {len(calls)} calls, {len(kept)} kept, {repeated} repeated")
        assert times_answered(through_ray, stage, kept) == {1}
        assert repeated <= CONNECTIONS
        assert not waves.exists()


def test_failed_rows_stay_open(capsys: Capture, tmp_path: Path, cluster: str) -> None:
    """One attempt a call, a third of which fail: the command is run until nothing is open.

    No malformed answers: the plain run would give up calls with several.
    """
    kinds = ("500", "429", "drop")
    with endpoint(tmp_path / "server", faults=0.3, kinds=kinds) as server:
        plain = new_run(capsys, tmp_path / "plain", server.spec)
        assert run_command(capsys, "label", plain).code == 0
        assert "no answer" not in (plain.parent / "run" / OUTPUTS["label"]).read_text()
        before = len(server.answered())
        file = new_run(capsys, tmp_path / "ray", server.spec)
        ray_label = ("ray", "label", file, "--address", cluster, "--set", "http.attempts=1")
        done = run_command(capsys, *ray_label)
        for _ in range(5):
            if done.code == 0:
                break
            assert "requests have no answer" in done.err
            done = run_command(capsys, *ray_label)
        assert done.code == 0, done.err
        waves = done.err.count("requests through Ray")
        assert waves > 1
        rows = [tmp_path / way / "run" / OUTPUTS["label"] for way in ("plain", "ray")]
        assert rows[0].read_bytes() == rows[1].read_bytes()
        assert set(answered(server, before).values()) == {1}


def test_an_endpoint_that_is_not_there(capsys: Capture, tmp_path: Path, cluster: str) -> None:
    """One line with the reason, and nothing written."""
    file = new_run(capsys, tmp_path / "ray", "http://127.0.0.1:9/v1#toy")
    done = run_command(
        capsys, "ray", "label", file, "--address", cluster, "--set", "http.attempts=1"
    )
    assert done.code == 1
    line = done.err.splitlines()[-1]
    assert f"label: {2 * ROWS} requests have no answer: " in line
    assert "http://127.0.0.1:9/v1: connect error" in line
    assert not (tmp_path / "ray" / "run" / OUTPUTS["label"]).exists()


def test_a_killed_command_goes_on(capsys: Capture, tmp_path: Path, cluster: str) -> None:
    with endpoint(tmp_path / "server", latency=0.05) as server:
        plain = new_run(capsys, tmp_path / "plain", server.spec)
        assert run_command(capsys, "label", plain).code == 0
        before, calls = len(server.answered()), answered(server)
        file = new_run(capsys, tmp_path / "ray", server.spec)
        arguments = ("ray", "label", str(file), "--address", cluster)
        process = subprocess.Popen([sys.executable, "-m", "cai.cli", *arguments])
        once_answered(server, len(calls) // 2, process.kill).join(120)
        assert process.wait() == -signal.SIGKILL
        left = read_answers(tmp_path / "ray" / "run" / "ray" / "label")
        kept = left.positions.keys() | left.received.offsets.keys()
        done = run_command(capsys, *arguments)
        assert done.code == 0, done.err
        rows = [tmp_path / way / "run" / OUTPUTS["label"] for way in ("plain", "ray")]
        assert rows[0].read_bytes() == rows[1].read_bytes()
        through_ray = answered(server, before)
        repeated = through_ray.total() - len(calls)
        report(capsys, f"killed command: {len(calls)} calls, {len(kept)} kept, {repeated} repeated")
        assert times_answered(through_ray, "label", kept) == {1}
        assert repeated <= 2 * CONNECTIONS


def test_grades(capsys: Capture, tmp_path: Path, cluster: str) -> None:
    replies = tmp_path / "replies.jsonl"
    write_lines(replies, *({"prompt": f"Q{i}?", "response": f"It is {i}."} for i in range(ROWS)))
    with endpoint(tmp_path / "server") as server:
        options = ("--constitution", "harmless", "--input", replies, "--model", server.spec)
        outputs = [tmp_path / "plain.jsonl", tmp_path / "ray.jsonl"]
        plain = run_command(capsys, "grade", *options, "--ask-all", "--output", outputs[0])
        assert plain.code == 0, plain.err
        before, calls = len(server.answered()), answered(server)
        report(capsys, f"grade: {calls.total()} calls")
        through_ray = ("ray", "grade", *options, "--ask-all", "--output", outputs[1])
        done = run_command(capsys, *through_ray, "--address", cluster)
        assert done.code == 0, done.err
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
        assert answered(server, before) == calls


class ChatRequest(BaseModel):
    """What the deployment takes: the type of `ray.serve.llm` needs vLLM."""

    model_config = ConfigDict(extra="allow")
    messages: list[dict[str, str]]


class ChatAnswer(BaseModel):
    choices: list[dict[str, Any]]
    usage: dict[str, int]


class Refusal(BaseModel):
    """What `ray.serve.llm` answers to a request that its engine refuses."""

    error: dict[str, Any]


class Chat:
    """A deployment with the method that Ray's LLM deployments have."""

    async def chat(self, request: ChatRequest) -> Any:
        question = request.messages[-1]["content"]
        if question.endswith("7?"):
            raise ValueError("a row that fails")
        if question.endswith("8?"):
            yield Refusal(error={"message": "a row that is refused", "code": 400})
        else:
            yield ChatAnswer.model_validate(answer_to(request.model_dump(exclude_unset=True)))


@pytest.fixture(scope="module")
def deployment(cluster: str) -> Iterator[str]:
    """Its name. It stays in the cluster when the program that has started it ends."""
    serve = pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
    ray.init(address=cluster)
    serve.run(serve.deployment(ray_actor_options={"num_cpus": 0})(Chat).bind(), name="toy")
    ray.shutdown()
    yield "toy/Chat"
    ray.init(address=cluster)
    serve.shutdown()
    ray.shutdown()


def test_answers_of_a_deployment(tmp_path: Path, cluster: str, deployment: str) -> None:
    """They have the server's content; a row that fails, or is refused, has a reason."""
    bodies: dict[str, dict[str, Any]] = {}
    for number in range(20):
        message = {"role": "user", "content": f"Question {number}?"}
        body: dict[str, Any] = {"messages": [message], "max_tokens": 9, "model": "toy"}
        bodies[f"label-{number}"] = body | ({"logprobs": True} if number % 2 else {})
    requests = RequestTables(tmp_path / "requests")
    for name, body in bodies.items():
        requests.add(name, body)
    requests.close()
    ray.init(address=cluster)
    try:
        config = ray_processors.deployment_processor(deployment, 1, ChatRequest)
        ray_processors.answer_wave(requests.paths, tmp_path / "answers" / "0", config)
    finally:
        ray.shutdown()
    answers = read_answers(tmp_path)
    reasons = {"7": "ValueError: a row that fails", "8": "a row that is refused"}
    failed = {name: reasons[name[-1]] for name in bodies if name[-1] in reasons}
    assert answers.errors == failed
    for name in bodies.keys() - failed.keys():
        data = answers.find(name)
        assert data is not None
        expected = json.dumps(answer_to(bodies[name])).encode()
        answer = parse_answer(data, "", str)._replace(body=b"")
        assert answer == parse_answer(expected, "", str)._replace(body=b"")


def test_the_rows_of_a_plain_run_by_a_deployment(
    capsys: Capture,
    tmp_path: Path,
    cluster: str,
    deployment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deployment answers as the endpoint does, which is not called."""
    types = SimpleNamespace(ChatCompletionRequest=ChatRequest)
    monkeypatch.setitem(sys.modules, "ray.serve.llm.openai_api_models", types)
    with endpoint(tmp_path / "server") as server:
        plain = new_run(capsys, tmp_path / "plain", server.spec)
        assert run_command(capsys, "label", plain).code == 0
        before = len(server.answered())
        file = new_run(capsys, tmp_path / "ray", server.spec)
        by_deployment = ("--address", cluster, "--deployment", deployment)
        done = run_command(capsys, "ray", "label", file, *by_deployment)
        assert done.code == 0, done.err
        assert len(server.answered()) == before
    rows = [tmp_path / way / "run" / OUTPUTS["label"] for way in ("plain", "ray")]
    assert rows[0].read_bytes() == rows[1].read_bytes()

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_runner import Capture, run_command
from endpoint import Endpoint, answer_to, endpoint
from json_lines import write_lines

from cai.integrations import ray_data
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


def kill_one_of_two_workers(server: Endpoint) -> None:
    while len(workers := ray_workers(server)) < 2:
        time.sleep(0.05)
    os.kill(workers[0].pid, signal.SIGKILL)


@pytest.mark.parametrize("stage", ["revise", "label"])
def test_the_rows_of_a_plain_run_though_a_worker_is_killed(
    capsys: Capture,
    tmp_path: Path,
    cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    """Two workers call at the same time. At most the calls that the killed one waited for are made
    again.
    """
    if ROWS < 1000:
        monkeypatch.setattr(ray_data, "ROWS_PER_TASK", 16)
        monkeypatch.setattr(ray_data, "HTTP_BATCH", 16)
    with endpoint(tmp_path / "server", latency=0.2) as server:
        plain = new_run(capsys, tmp_path / "plain", server.spec)
        assert run_command(capsys, stage, plain, "--set", "http.connections=64").code == 0
        before = len(server.answered())
        calls = answered(server)
        file = new_run(capsys, tmp_path / "ray", server.spec)
        killer = once_answered(server, 1, lambda: kill_one_of_two_workers(server))
        done = run_command(capsys, "ray", stage, file, "--address", cluster)
        assert done.code == 0, done.err
        killer.join(1)
        assert not killer.is_alive(), "a worker was killed"
        rows = [tmp_path / way / "run" / OUTPUTS[stage] for way in ("plain", "ray")]
        assert rows[0].read_bytes() == rows[1].read_bytes()
        through_ray = answered(server, before)
        assert through_ray.keys() == calls.keys()
        repeated = through_ray.total() - len(calls)
        with capsys.disabled():
            print(f"\n{stage}: {len(calls)} calls, {repeated} repeated")
        assert repeated <= CONNECTIONS
        assert not (tmp_path / "ray" / "run" / "ray" / stage).exists()


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
        done = run_command(capsys, *arguments)
        assert done.code == 0, done.err
        rows = [tmp_path / way / "run" / OUTPUTS["label"] for way in ("plain", "ray")]
        assert rows[0].read_bytes() == rows[1].read_bytes()
        repeated = answered(server, before).total() - len(calls)
        with capsys.disabled():
            print(f"\nkilled command: {len(calls)} calls, {repeated} repeated")
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
        through_ray = ("ray", "grade", *options, "--ask-all", "--output", outputs[1])
        done = run_command(capsys, *through_ray, "--address", cluster)
        assert done.code == 0, done.err
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
        assert answered(server, before) == calls


class Chat:
    """A deployment with the method that Ray's LLM deployments have."""

    async def chat(self, request: dict[str, Any]) -> Any:
        if request["messages"][-1]["content"].endswith("7?"):
            raise ValueError("a row that fails")
        yield answer_to(request)


def test_a_deployment_of_ray_serve(tmp_path: Path, cluster: str) -> None:
    """Answers have the server's content; a failed row is one with a reason."""
    serve = pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
    bodies: dict[str, dict[str, Any]] = {}
    for number in range(20):
        message = {"role": "user", "content": f"Question {number}?"}
        body: dict[str, Any] = {"messages": [message], "max_tokens": 9, "model": "toy"}
        bodies[f"label-{number}"] = body | ({"logprobs": True} if number % 2 else {})
    requests = ray_data.RequestTables(tmp_path / "requests")
    for name, body in bodies.items():
        requests.add(name, body)
    requests.close()
    ray.init(address=cluster)
    try:
        application = serve.deployment(ray_actor_options={"num_cpus": 0})(Chat).bind()
        serve.run(application, name="toy")
        config = ray_data.deployment_processor("toy/Chat", 1, dict)
        ray_data.answer_wave(requests.paths, tmp_path / "answers" / "0", config)
    finally:
        serve.shutdown()
        ray.shutdown()
    answers = ray_data.read_answers(tmp_path)
    failed = {name for name, body in bodies.items() if "7?" in body["messages"][0]["content"]}
    assert answers.errors.keys() == failed
    assert all("a row that fails" in error for error in answers.errors.values())
    for name in bodies.keys() - failed:
        data = answers.find(name)
        assert data is not None
        expected = json.dumps(answer_to(bodies[name])).encode()
        answer = parse_answer(data, "", str)._replace(body=b"")
        assert answer == parse_answer(expected, "", str)._replace(body=b"")

"""A toy reward, and a server of it, for tests of the reward server and its clients."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cai.integrations.reward_batching import RewardTable, ScoreTexts
from cai.integrations.reward_requests import Limits
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt, chat_of

TOKEN = "secret"
AUTHORIZATION = f"Authorization: Bearer {TOKEN}\r\n"
LIMITS = Limits(
    max_body_bytes=20_000,
    max_rows=8,
    max_chars=5_000,
    batch_size=16,
    batch_wait_s=0.002,
    timeout_s=5.0,
)
HI = Prompt(chat=chat_of(("user", "Hi")))
RUN = """
name: toy
model: {model}
constitution: harmless
prompts: [prompts.jsonl]
folder: {folder}
reward_weights: {{pm: 0}}
"""


def by_length(prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
    """Words of the reply, and 1 for a benign prompt.

    The words of a reply that contains `who knows` are unknown; one with `boom` raises.
    """
    if any("boom" in reply for reply in replies):
        raise RuntimeError("a private detail")
    words = [None if "who knows" in reply else float(len(reply.split())) for reply in replies]
    return {"pm": words, "rubric": [float(prompt.kind == "benign") for prompt in prompts]}


@contextmanager
def serving(
    score: ScoreTexts, end_texts: Sequence[str] = (), limits: Limits = LIMITS
) -> Iterator[RewardServer]:
    server = RewardServer(("127.0.0.1", 0), score, TOKEN, limits, end_texts)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def url_of(server: RewardServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def connected(server: RewardServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=20)


def send(
    server: RewardServer, path: str, body: Any, token: str = TOKEN, method: str = "POST"
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, {"authorization": f"Bearer {token}"})
    answer = connection.getresponse()
    payload = json.loads(answer.read())
    connection.close()
    return answer.status, payload


def reward_run_file(folder: Path, model: str) -> Path:
    """The YAML of a run without a preference model, with one prompt beside it."""
    (folder / "prompts.jsonl").write_text(HI.line() + "\n", encoding="utf-8")
    (folder / "run.yaml").write_text(
        RUN.format(model=model, folder=folder / "out"), encoding="utf-8"
    )
    return folder / "run.yaml"

"""A local OpenAI-compatible server: answers are functions of the request, faults are optional.

It runs in a process of its own, so that killing a client does not affect it or its log. A request's
answer depends on the request alone; its fault on the request, the number of times that it came,
and the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

FAULTS = ("500", "429", "hang", "cut", "drop", "empty", "option")
"""Status 500; status 429; no answer; half of the JSON; a connection closed in the body; no choice;
log-probabilities of other options."""


@dataclass(frozen=True)
class Behaviour:
    """Settings of the server."""

    latency: float = 0.0
    faults: float = 0.0
    """Share of requests with a fault."""
    seed: int = 0
    hang: float = 5.0
    """Seconds until a request without an answer is dropped."""
    key: str | None = None
    """The API key that Authorization must hold."""
    always: str | None = None
    """The fault of every request."""
    kinds: tuple[str, ...] = FAULTS


def request_digest(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def answer_to(body: dict[str, Any]) -> dict[str, Any]:
    """A refusal, or log-odds of A and B, or of Yes and No, which differ from request to request."""
    stream = random.Random(request_digest(body))
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    choice: dict[str, Any] = {"finish_reason": "stop"}
    if body.get("logprobs"):
        log_odds = stream.gauss(0, 2)
        is_question = body["messages"][-1]["content"].endswith("Answer Yes or No.")
        first, second = ("Yes", " No") if is_question else ("A", " B")
        top = [
            {"token": first, "logprob": -math.log1p(math.exp(-log_odds))},
            {"token": second, "logprob": -math.log1p(math.exp(log_odds))},
        ]
        choice["message"] = {"role": "assistant", "content": first}
        choice["logprobs"] = {"content": [{"token": first, "top_logprobs": top}]}
    else:
        syllables = [stream.choice("bdfgklmnprst") + stream.choice("aeiou") for _ in range(4)]
        text = f"I'm sorry, but I can't help with {''.join(syllables)}."
        choice["message"] = {"role": "assistant", "content": text}
    return {"choices": [choice], "usage": usage}


@dataclass
class Response:
    """The parts of an HTTP response that faults change."""

    answer: dict[str, Any]
    status: int = 200
    headers: str = ""


def response_to(body: dict[str, Any], fault: str | None) -> Response:
    """The answer, changed by a fault in its content; faults in transmission change nothing here."""
    response = Response(answer_to(body))
    choice = response.answer["choices"][0]
    if fault == "429":
        response.status = 429
        response.headers = "retry-after: 0.01\r\n"
        response.answer = {"error": {"message": "slow down"}}
    elif fault == "empty":
        response.answer = {"choices": []}
    elif fault == "option" and body.get("logprobs"):
        choice["logprobs"]["content"][0]["top_logprobs"] = [{"token": "The", "logprob": -0.1}]
    elif fault is not None and fault.isdigit():
        response.status = int(fault)
        response.answer = {"error": {"message": f"said with status {fault}"}}
    elif fault in ("length", "content_filter"):
        choice["finish_reason"] = fault
    elif fault == "no logprobs":
        choice.pop("logprobs", None)
    return response


class Server:
    """One server. Each answered request adds a line to its log: digest, and fault or "ok"."""

    def __init__(self, behaviour: Behaviour, log_file: Path) -> None:
        self.behaviour = behaviour
        self.log = log_file.open("a", buffering=1)
        self.request_counts: Counter[str] = Counter()

    def fault_of(self, digest: str) -> str | None:
        behaviour = self.behaviour
        if behaviour.always:
            return behaviour.always
        stream = random.Random(f"{behaviour.seed} {digest} {self.request_counts[digest]}")
        # a wrong option is the model's answer, not a fault in transmission: it does not pass
        lasting = random.Random(f"{behaviour.seed} {digest}")
        if "option" in behaviour.kinds and lasting.random() < behaviour.faults / len(FAULTS):
            return "option"
        transient = [kind for kind in behaviour.kinds if kind != "option"]
        if transient and stream.random() < behaviour.faults:
            return stream.choice(transient)
        return None

    async def handle_request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        if self.behaviour.latency:
            await asyncio.sleep(self.behaviour.latency)
        digest = request_digest(body)
        fault = self.fault_of(digest)
        self.request_counts[digest] += 1
        key = self.behaviour.key
        if key and f"authorization: bearer {key}" not in head:
            response = Response({"error": {"message": f"bad key in: {head}"}}, status=401)
        elif fault == "hang":
            self.log.write(f"{digest} hang\n")
            await asyncio.sleep(self.behaviour.hang)
            return False
        else:
            response = response_to(body, fault)
        data = json.dumps(response.answer).encode()
        if fault == "cut":
            data = data[: len(data) // 2]
        declared = len(data) * (2 if fault == "drop" else 1)
        response_head = (
            f"HTTP/1.1 {response.status} x\r\ncontent-type: application/json\r\n"
            f"{response.headers}content-length: {declared}\r\n\r\n"
        )
        writer.write(response_head.encode())
        self.log.write(f"{digest} {fault or 'ok'}\n")  # before the client can read the answer
        writer.write(data)
        await writer.drain()
        return fault != "drop"

    async def handle_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self.handle_request(reader, writer):
                pass
        writer.close()


async def serve(behaviour: Behaviour, port_file: Path, log_file: Path) -> None:
    """Serve until killed, on a free port that is written to `port_file`."""
    handler = Server(behaviour, log_file)
    server = await asyncio.start_server(handler.handle_connection, "127.0.0.1", 0)
    partial = port_file.with_suffix(".partial")
    partial.write_text(str(server.sockets[0].getsockname()[1]))
    partial.rename(port_file)
    async with server:
        await server.serve_forever()


def _main(behaviour: Behaviour, port_file: Path, log_file: Path) -> None:
    asyncio.run(serve(behaviour, port_file, log_file))


# The fork server finds the modules that it preloads by PYTHONPATH, not by our sys.path; without
# them each child would import them again.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
)
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["endpoint", "killed"])


@dataclass(frozen=True)
class Endpoint:
    """A running server."""

    spec: str
    log_file: Path

    def answered(self) -> list[tuple[str, str]]:
        """(digest, fault or "ok") of every answered request, in order."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [(digest, fault) for digest, _, fault in (line.partition(" ") for line in lines)]


@contextlib.contextmanager
def endpoint(folder: Path, **behaviour: Any) -> Iterator[Endpoint]:
    """A server on a free port of the loopback, for as long as the context lasts."""
    import time

    folder.mkdir(parents=True, exist_ok=True)
    port_file, log_file = folder / "port", folder / "answered.log"
    process = processes.Process(
        target=_main, args=(Behaviour(**behaviour), port_file, log_file), daemon=True
    )
    process.start()
    try:
        while not port_file.exists():
            if not process.is_alive():
                raise RuntimeError("the test server did not start")
            time.sleep(0.01)
        yield Endpoint(f"http://127.0.0.1:{port_file.read_text()}/v1#toy", log_file)
    finally:
        process.kill()
        process.join()

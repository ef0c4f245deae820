"""A local OpenAI-compatible server that answers by plain functions of the request, slowly or wrongly when told to.

Runs in a process of its own, so that killing a client leaves it and its counts alone. What a request is answered with depends on
the request alone; which faults it meets first, on the request, the number of times that it came, and the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
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
"""Status 500; status 429; no answer; half a JSON; a connection closed mid-body; no choice; log-probabilities of other options."""


@dataclass(frozen=True)
class Behaviour:
    """How the server behaves. `faults`: share of requests that meet one; `key`: what Authorization must hold."""

    latency: float = 0.0
    faults: float = 0.0
    seed: int = 0
    hang: float = 5.0
    key: str | None = None
    always: str | None = None
    kinds: tuple[str, ...] = FAULTS


def name_of(body: dict[str, Any]) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def answer_to(body: dict[str, Any]) -> dict[str, Any]:
    """A refusal that differs from request to request; or log-odds of A and B that do."""
    stream = random.Random(name_of(body))
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 60}
    choice: dict[str, Any] = {"finish_reason": "stop"}
    if body.get("logprobs"):
        odds = stream.gauss(0, 2)
        top = [{"token": "A", "logprob": -1.0 + odds / 2}, {"token": " B", "logprob": -1.0 - odds / 2}]
        choice |= {
            "message": {"role": "assistant", "content": "A"},
            "logprobs": {"content": [{"token": "A", "top_logprobs": top}]},
        }
    else:
        word = "".join(stream.choice("bdfgklmnprst") + stream.choice("aeiou") for _ in range(4))
        choice |= {"message": {"role": "assistant", "content": f"I'm sorry, but I can't help with {word}."}}
    return {"choices": [choice], "usage": usage}


async def serve(behaviour: Behaviour, port_file: Path, log_file: Path) -> None:
    """Serve until killed. Each request about to be answered adds a line to `log_file`: its name, and its fault or "ok"."""
    seen: Counter[str] = Counter()
    log = log_file.open("a", buffering=1)

    def fault_of(name: str) -> str | None:
        if behaviour.always:
            return behaviour.always
        stream = random.Random(f"{behaviour.seed} {name} {seen[name]}")
        # a wrong option is the model's answer, not an accident on the way: it stays
        lasting = random.Random(f"{behaviour.seed} {name}")
        if "option" in behaviour.kinds and lasting.random() < behaviour.faults / len(FAULTS):
            return "option"
        passing = [kind for kind in behaviour.kinds if kind != "option"]
        return stream.choice(passing) if passing and stream.random() < behaviour.faults else None

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        if behaviour.latency:
            await asyncio.sleep(behaviour.latency)
        name = name_of(body)
        fault = fault_of(name)
        seen[name] += 1
        status, extra, answer = 200, "", answer_to(body)
        if behaviour.key and f"authorization: bearer {behaviour.key}" not in head:
            status, answer = 401, {"error": {"message": f"bad key in: {head}"}}
        elif fault == "hang":
            log.write(f"{name} hang\n")
            await asyncio.sleep(behaviour.hang)
            return False
        elif fault == "429":
            status, extra, answer = 429, "retry-after: 0.01\r\n", {"error": {"message": "slow down"}}
        elif fault == "empty":
            answer = {"choices": []}
        elif fault == "option" and body.get("logprobs"):
            answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = [{"token": "The", "logprob": -0.1}]
        elif fault is not None and fault.isdigit():
            status, answer = int(fault), {"error": {"message": f"said with status {fault}"}}
        elif fault in ("length", "content_filter"):
            answer["choices"][0]["finish_reason"] = fault
        elif fault == "no logprobs":
            answer["choices"][0].pop("logprobs", None)
        data = json.dumps(answer).encode()
        if fault == "cut":
            data = data[: len(data) // 2]
        declared = len(data) * (2 if fault == "drop" else 1)
        writer.write(
            f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{extra}content-length: {declared}\r\n\r\n".encode()
        )
        log.write(f"{name} {fault or 'ok'}\n")  # before the client can look
        writer.write(data)
        await writer.drain()
        return fault != "drop"

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await one(reader, writer):
                pass
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    partial = port_file.with_suffix(".partial")
    partial.write_text(str(server.sockets[0].getsockname()[1]))
    partial.rename(port_file)
    async with server:
        await server.serve_forever()


def _main(behaviour: Behaviour, port_file: Path, log_file: Path) -> None:
    asyncio.run(serve(behaviour, port_file, log_file))


# the fork server looks for what it loads ahead along the environment's path, not along ours; each child would import it anew
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["endpoint", "killed"])


@dataclass(frozen=True)
class Endpoint:
    """A running server."""

    spec: str
    log_file: Path

    def answered(self) -> list[tuple[str, str]]:
        """(name, fault or "ok") of every answered request, in order."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [(name, fault) for name, _, fault in (line.partition(" ") for line in lines)]


@contextlib.contextmanager
def endpoint(folder: Path, **behaviour: Any) -> Iterator[Endpoint]:
    """A server on a free port of the loopback, for as long as the context lasts."""
    import time

    folder.mkdir(parents=True, exist_ok=True)
    port_file, log_file = folder / "port", folder / "answered.log"
    process = processes.Process(target=_main, args=(Behaviour(**behaviour), port_file, log_file), daemon=True)
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

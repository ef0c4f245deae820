"""Inference engines that are started as a child: `vllm:MODEL` and `sglang:MODEL`.

The engine's own OpenAI-compatible server listens on the loopback, behind a random key, and is
spoken to as any endpoint. Left out on purpose: the engines' Python interfaces, and several
computers. The options are those of vLLM 0.30 and SGLang 0.5.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from cai.errors import BackendError, UsageError
from cai.lm import credentials
from cai.lm.base import TOP_LOGPROBS
from cai.modeling.model_files import resolve_model_path

ENGINES = ("vllm", "sglang")
ARGUMENTS_VARIABLE = "CAI_ENGINE_ARGS"
"""Further arguments of the engine's command line. Not in a run's YAML: some load code."""
HOST = "127.0.0.1"
POLL_SECONDS = 0.5
HEALTH_SECONDS = 5.0
"""For one answer to whether the server is healthy."""
END_SECONDS = 15.0
"""Given to an engine to end; then its watcher is killed, and the system kills the engine."""
MAX_LINE = 300
"""Characters of a log line in a message."""
WATCHER = Path(__file__).with_name("engine_watch.py")


def is_endpoint(spec: str) -> bool:
    """Whether a model's spec names a server: one that runs already, or an engine to start."""
    kind, colon, _ = spec.partition(":")
    return bool(colon) and kind in ("http", "https", *ENGINES)


class EngineServer:
    """An engine with one model. It starts with the first call and ends with this object, with the
    process, or when the process is killed.

    Args:
        kind: `vllm` or `sglang`.
        model: a folder or a hub id.
        start_timeout: seconds until it has to be healthy.

    Raises:
        UsageError: the engine is not installed; or no such model folder.
    """

    def __init__(self, kind: str, model: str, start_timeout: float) -> None:
        if not model or model.startswith("-"):
            raise UsageError(f"model {kind}:{model}: write it as {kind}:FOLDER_OR_HUB_ID")
        self.kind, self.model, self.start_timeout = kind, model, start_timeout
        self.path = resolve_model_path(model)
        self.arguments = _further_arguments()
        self._program = _program(kind)
        self.key = secrets.token_urlsafe(32)
        self.port = _free_port()
        self.fingerprint = _fingerprint(kind, model, self.path, self.arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._log: deque[str] = deque(maxlen=50)
        self._start: asyncio.Task[None] | None = None

    @property
    def spec(self) -> str:
        """The address of its chat completions, as `HttpLM` takes it."""
        return f"http://{HOST}:{self.port}/v1#{self.model}"

    def command(self) -> list[str]:
        """The engine's command line, without the key where its environment takes that."""
        if self.kind == "vllm":
            words = [*self._program, "serve", self.path, "--enable-prefix-caching"]
            # nothing but the temperature shapes the distribution
            words += ["--max-logprobs", str(TOP_LOGPROBS), "--generation-config", "vllm"]
        else:  # its prefix cache is on unless it is turned off
            words = [*self._program, "--model-path", self.path, "--api-key", self.key]
            words += ["--sampling-defaults", "openai"]
        words += ["--served-model-name", self.model, "--host", HOST, "--port", str(self.port)]
        return [*words, *self.arguments]

    async def ready(self) -> None:
        """Start the engine if need be, and wait until it is healthy.

        Raises:
            BackendError: it ended, or was not healthy in time.
        """
        loop = asyncio.get_running_loop()
        if self._start is None or self._start.get_loop() is not loop:
            self._start = loop.create_task(self._wait_until_healthy())
        await asyncio.shield(self._start)
        self._refuse_if_ended()

    async def _wait_until_healthy(self) -> None:
        if self._process is None:
            self._launch()
        deadline = time.monotonic() + self.start_timeout
        while not await self._is_healthy():
            self._refuse_if_ended()
            if time.monotonic() > deadline:
                self.end()
                raise BackendError(
                    f"{self.kind} {self.model}: not healthy after {self.start_timeout:g} s "
                    f"(http.start_timeout); {self._last_words()}"
                )
            await asyncio.sleep(POLL_SECONDS)

    def _launch(self) -> None:
        print(f"cai: {self.kind}: starting {self.model}", file=sys.stderr, flush=True)
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        environment.pop(credentials.API_KEY_VARIABLE, None)
        if self.kind == "vllm":
            environment["VLLM_API_KEY"] = self.key
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", str(WATCHER), *self.command()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process: calls under way are awaited
        )
        threading.Thread(target=_read_log, args=(process, self._log), daemon=True).start()
        weakref.finalize(self, _end, process)
        self._process = process

    async def _is_healthy(self) -> bool:
        """Whether GET /health gives 200. Neither engine wants the key for it."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(HEALTH_SECONDS):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    writer.write(f"GET /health HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
                    status = await reader.readline()
                finally:
                    writer.close()
            return status.split()[1:2] == [b"200"]
        return False

    def _refuse_if_ended(self) -> None:
        if self._process is not None and (status := self._process.poll()) is not None:
            raise BackendError(
                f"{self.kind} {self.model}: ended with exit code {status}; {self._last_words()}"
            )

    def _last_words(self) -> str:
        """The log's last line, without the key."""
        lines = [line for line in self._log if line.strip()]
        if not lines:
            return "it logged nothing"
        line = credentials.mask(lines[-1], [self.key])
        return f"its last log line: {line.strip()[:MAX_LINE]}"

    def end(self) -> None:
        """End the engine, if it runs."""
        if self._process is not None:
            _end(self._process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the watcher's input, which ends the engine, and wait for that."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_log(process: subprocess.Popen[bytes], log: deque[str]) -> None:
    """Keep the newest lines; the engine would stop at a pipe that nobody empties."""
    if process.stdout is None:
        return
    with process.stdout as lines:
        while line := lines.readline(1 << 16):
            log.append(line.decode("utf-8", "replace"))


def _program(kind: str) -> list[str]:
    """What starts the engine's server.

    Raises:
        UsageError: it is not installed.
    """
    if kind == "sglang":
        if importlib.util.find_spec("sglang") is not None:
            return [sys.executable, "-m", "sglang.launch_server"]
        raise UsageError("model sglang: is not installed beside cai: pip install 'sglang[all]'")
    beside = os.pathsep.join((os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)))
    program = shutil.which("vllm", path=beside)
    if program is None:
        raise UsageError("model vllm: no program vllm in PATH or beside cai: pip install vllm")
    return [program]


def _further_arguments() -> list[str]:
    text = os.environ.get(ARGUMENTS_VARIABLE, "")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{ARGUMENTS_VARIABLE}: {error}") from None
    taken = ("--host", "--port", "--api-key", "--served-model-name", "--uds")
    for word in words:
        if word.partition("=")[0] in taken:
            raise UsageError(f"{ARGUMENTS_VARIABLE}: {word.partition('=')[0]} is set by cai")
    return words


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _fingerprint(kind: str, model: str, path: str, arguments: Sequence[str]) -> str:
    """Equal for engines that answer alike. The port is no part of it."""
    name = f"{kind}:{model}"
    if Path(path).is_dir():
        from cai.modeling.loading import fingerprint

        name += f" {fingerprint(path)}"
    return " ".join((name, *arguments))

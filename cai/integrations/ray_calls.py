"""Calls to an endpoint by Ray's HTTP stage, made by `HttpLM`.

The stage would send one request of a batch after another, and one failure would end its batch. So
`EndpointCalls` takes the place of its HTTP session: all requests of a batch are sent at once, with
the run's limits and attempts, and a call without an answer fails alone. An answer goes into a file
before the stage has it: what a worker that is killed had received is not requested again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cai.errors import BackendError, StoreError
from cai.files import write_errors
from cai.lm.batch_files import AnswerFiles, read_answer_files
from cai.lm.credentials import API_KEY_VARIABLE
from cai.lm.http import HttpConfig, HttpLM


class EndpointCalls:
    """Ray's `session_factory`: makes the session of each batch. Each worker has a copy.

    Args:
        spec: `http://HOST:PORT/v1#MODEL`.
        config: the run's; its limits are divided among the workers.
        workers: how many there are.
        folder: where answers go as they come. All workers see it.
    """

    def __init__(self, spec: str, config: HttpConfig, workers: int, folder: Path) -> None:
        self.spec, self.config, self.folder = spec, _share(config, workers), folder
        # the key travels with this object: Ray would show the variables of its environments
        self._key = os.environ.get(API_KEY_VARIABLE)
        self.lm: HttpLM | None = None
        """Opened with the first batch, for as long as the worker lives."""

    def __call__(self) -> CallSession:
        if self.lm is None:
            if self._key is not None:
                os.environ[API_KEY_VARIABLE] = self._key
            self.lm = HttpLM(self.spec, self.config)
        return CallSession(self.lm, self.folder)


def _share(config: HttpConfig, workers: int) -> HttpConfig:
    """One worker's part of the limits."""
    limits = {
        name: limit / workers
        for name in ("requests_per_minute", "tokens_per_minute")
        if (limit := getattr(config, name)) is not None
    }
    connections = max(1, config.connections // workers)
    return config.model_copy(update={"connections": connections, **limits})


class CallSession:
    """What the stage uses of a session, for one batch."""

    def __init__(self, lm: HttpLM, folder: Path) -> None:
        self.lm, self.folder = lm, folder
        self._known = AnswerFiles()
        self._file: BinaryIO | None = None
        self._calls: list[asyncio.Task[CallResult]] = []

    async def __aenter__(self) -> CallSession:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._file is not None:
            self._file.close()

    def post(self, url: str, *, headers: object, data: str) -> asyncio.Task[CallResult]:
        """Start a call. `data` is the JSON of what `http_request` gives, which is JSON itself."""
        request = json.loads(json.loads(data))
        if self._file is None:
            # a batch that is repeated begins with the same request
            self._open(self.folder / f"{request['id']}.jsonl")
        call = asyncio.ensure_future(self._answer(request["id"], request["body"]))
        self._calls.append(call)
        return call

    def _open(self, path: Path) -> None:
        with write_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            self._file.write(b"\n")  # ends a line that a kill has cut
        self._known = read_received([path])

    async def _answer(self, name: str, body: dict[str, Any]) -> CallResult:
        data = self._known.find(name)
        if data is None:
            try:
                data = await self.lm.answer(body)
            except BackendError as error:
                return CallResult({"answer": None, "error": str(error)})
            self._note(name, data)
        return CallResult({"answer": data.decode("utf-8", "replace"), "error": None})

    def _note(self, name: str, data: bytes) -> None:
        row = {"custom_id": name, "response": {"status_code": 200, "body": json.loads(data)}}
        assert self._file is not None  # noqa: S101
        with write_errors(self.folder):
            self._file.write(json.dumps(row).encode() + b"\n")


class CallResult:
    """What the stage reads of a response."""

    status = 200

    def __init__(self, result: dict[str, str | None]) -> None:
        self.result = result

    async def __aenter__(self) -> CallResult:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Nothing to close."""

    async def json(self) -> dict[str, str | None]:
        return self.result


def read_received(paths: list[Path]) -> AnswerFiles:
    """The answers in files that workers wrote, also in those that a kill has cut."""
    answers = AnswerFiles()
    for path in paths:
        with contextlib.suppress(StoreError):  # nothing but a line that was cut
            answers.offsets |= read_answer_files([path]).offsets
    return answers

"""The files of a batch queue: requests written, answers read.

The format is that of OpenAI's Batch API, which `vllm run-batch` and other vendors read as well. A
line is one request with a `custom_id`; its answer is a line with the same `custom_id`, in any file
and any order.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from cai.errors import StoreError
from cai.files import write_errors
from cai.lm.body import MAX_ANSWER_BYTES

MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000
"""Of one file: OpenAI's limits."""
ENDPOINT = "/v1/chat/completions"
_CUSTOM_ID = re.compile(r"([a-z]+)-[0-9a-f]{32}")


def custom_id(stage: str, body: dict[str, Any]) -> str:
    """The stage's name and a digest of the request as it would be sent: equal requests are one
    line, and an answer is found again whatever has happened since.
    """
    text = json.dumps(body, sort_keys=True)
    return f"{stage}-{sha256(text.encode()).hexdigest()[:32]}"


# ---- answers ----


@dataclass
class AnswerFiles:
    """Where the answers are in a queue's output files, and what the other lines were."""

    offsets: dict[str, tuple[Path, int]] = field(default_factory=dict)
    """custom_id -> file and offset of its line; of two lines, the last."""
    problems: Counter[str] = field(default_factory=Counter)
    """Why a line is no answer -> lines. Their requests stay open."""

    @property
    def stages(self) -> list[str]:
        """Names of the stages that have answers here."""
        return sorted({name.partition("-")[0] for name in self.offsets})

    def find(self, name: str) -> bytes | None:
        """The body of an answer, as JSON; None: there is none."""
        if name not in self.offsets:
            return None
        path, offset = self.offsets[name]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                row = json.loads(file.readline(MAX_ANSWER_BYTES))
        except (OSError, ValueError):
            raise StoreError(f"{path}: changed while it was read: run again") from None
        return json.dumps(row["response"]["body"]).encode()


def read_answer_files(paths: Iterable[Path]) -> AnswerFiles:
    """Index the lines of a queue's output and error files.

    Raises:
        StoreError: a file cannot be read, or none of its lines is one of a batch.
    """
    answers = AnswerFiles()
    for path in paths:
        known = len(answers.offsets) + answers.problems.total()
        try:
            with path.open("rb") as file:
                for offset, line in _lines(file):
                    _index(answers, path, offset, line)
        except OSError as error:
            raise StoreError(f"{path}: cannot read: {error.strerror}") from None
        foreign = answers.problems["not a line of a batch"]
        if foreign and foreign == len(answers.offsets) + answers.problems.total() - known:
            raise StoreError(
                f"{path}: no line is one of a batch: give the files that the queue wrote, with "
                "the custom_id of each request"
            )
    return answers


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each line that is not blank; one that is too long comes in pieces, of which
    none is JSON.
    """
    offset = 0
    while line := file.readline(MAX_ANSWER_BYTES):
        if line.strip():
            yield offset, line
        offset += len(line)


def _index(answers: AnswerFiles, path: Path, offset: int, line: bytes) -> None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    name = row.get("custom_id") if isinstance(row, dict) else None
    if not isinstance(name, str) or not _CUSTOM_ID.fullmatch(name):
        answers.problems["not a line of a batch"] += 1
        return
    response = row.get("response")
    status = response.get("status_code", 200) if isinstance(response, dict) else None
    if status != 200:
        reason = f"status {status}" if isinstance(status, int) else "an error"
        answers.problems[reason] += 1
    elif not isinstance(response.get("body"), dict):
        answers.problems["no body"] += 1
    else:
        answers.offsets[name] = (path, offset)


# ---- requests ----


class RequestFiles:
    """Writes requests into files of limited size. They get their names when `close` is called.

    Args:
        folder: where they go; it is made if there is none.
        max_requests, max_bytes: of one file.
    """

    def __init__(
        self, folder: Path, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder, self.max_requests, self.max_bytes = folder, max_requests, max_bytes
        self._digest = sha256()
        self._parts: list[Path] = []
        self._file: BinaryIO | None = None
        self._requests = self._bytes = 0
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, body: dict[str, Any]) -> None:
        """Write a line.

        Raises:
            StoreError: the disk is full, or one request alone is larger than a file may be.
        """
        row = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": body}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        if len(line) > self.max_bytes:
            raise StoreError(
                f"{self.folder}: a request has {len(line):,} bytes, more than a file may: "
                "raise --max-bytes"
            )
        is_full = self._requests == self.max_requests or self._bytes + len(line) > self.max_bytes
        if self._file is None or is_full:
            self._start_file()
        assert self._file is not None  # noqa: S101
        with write_errors(self.folder):
            self._file.write(line)
        self._digest.update(name.encode())
        self._requests += 1
        self._bytes += len(line)

    def _start_file(self) -> None:
        self._end_file()
        part = self.folder / f".part-{len(self._parts) + 1}"
        with write_errors(part):
            self._file = part.open("wb")
        self._parts.append(part)
        self._requests = self._bytes = 0

    def _end_file(self) -> None:
        if self._file is not None:
            with write_errors(self.folder):
                self._file.close()
            self._file = None

    def close(self, stage: str) -> list[Path]:
        """Name the files: by the requests in them, so that no wave replaces another's."""
        self._end_file()
        wave = self._digest.hexdigest()[:8]
        paths = []
        for number, part in enumerate(self._parts, 1):
            path = self.folder / f"{stage}-{wave}-{number:03}.jsonl"
            with write_errors(path):
                part.replace(path)
            paths.append(path)
        return paths

    def discard(self) -> None:
        """Remove what was written."""
        self._end_file()
        for part in self._parts:
            part.unlink(missing_ok=True)

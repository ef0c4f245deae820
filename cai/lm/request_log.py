"""The request log: every answered call of a run in one SQLite file, so that no call is ever paid for twice.

A call's key is the digest of fingerprint, chat, parameters and seed (the draw number). What the model said is kept raw: a changed
parser, gate or rubric reads it again without asking. WAL mode: two processes may share a log, and a killed one loses nothing that
it had written.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import StoreError

LOG = "requests.sqlite"
_TABLE = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, kind TEXT NOT NULL, request TEXT NOT NULL, answer TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL, made REAL NOT NULL
) WITHOUT ROWID
"""


class RequestLog:
    """Answers by key. Answers are written as they come; a reader in another process sees them at once."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        if not create and not path.exists():
            raise StoreError(f"{path}: no such request log")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # one thread at a time asks, though not always the one that opened it: a reward server's scorer is another
            self.db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.execute(_TABLE)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: not a request log ({error}); move it away to start a new one") from None
        self.path = path

    def find(self, key: str) -> Any:
        """The answer's JSON value; `KeyError` when there is none."""
        row = self.db.execute("SELECT answer FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return json.loads(row[0])

    def add(self, key: str, model: str, kind: str, request: str, answer: Any, tokens: tuple[int, int], seconds: float) -> None:
        """Keep the answer to a request (JSON); the first one stays when two processes were equally fast."""
        row = (key, model, kind, request, json.dumps(answer), *tokens, seconds, time.time())
        try:
            self.db.execute("INSERT OR IGNORE INTO calls VALUES (?,?,?,?,?,?,?,?,?)", row)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: cannot write: {error}; nothing finished is lost: make room and run again") from None

    def stats(self) -> list[tuple[str, str, int, int, int, float]]:
        """(model, kind, calls, prompt tokens, completion tokens, seconds spent waiting) by model and kind."""
        return self.db.execute(
            "SELECT model, kind, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(seconds) FROM calls "
            "GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every call in the order in which they were answered."""
        found = self.db.execute("SELECT * FROM calls ORDER BY made, key")
        names = [column[0] for column in found.description]
        for row in found:
            told = dict(zip(names, row, strict=True))
            yield told | {"request": json.loads(told["request"]), "answer": json.loads(told["answer"])}

    def prune(self, *, before: float | None = None, model: str | None = None) -> int:
        """Forget calls made before a time (seconds since 1970), or of one model, or (with both) that are both; how many."""
        wanted = [("made < ?", before), ("model = ?", model)]
        given = [(clause, value) for clause, value in wanted if value is not None]
        if not given:
            raise StoreError("say what to forget: --older-than DAYS, or --model MODEL, or both")
        clauses = " AND ".join(clause for clause, _ in given)
        count = self.db.execute(f"DELETE FROM calls WHERE {clauses}", [value for _, value in given]).rowcount  # noqa: S608
        self.db.execute("VACUUM")
        return int(count)

    def close(self) -> None:
        self.db.close()

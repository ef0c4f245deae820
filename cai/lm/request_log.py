"""The request log: every answered call of a run in one SQLite file, so that none is paid for twice.

A call's key is the digest of fingerprint, chat, parameters and seed. The model's answer is kept
raw: a changed parser, filter or rubric parses it again without a new call. In WAL mode two
processes may share a log, and a killed process loses nothing that it had written.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import StoreError

_SURROGATE = re.compile("[\ud800-\udfff]")
REQUEST_LOG_NAME = "requests.sqlite"
_TABLE = (
    "\nCREATE TABLE IF NOT EXISTS calls (\n"
    "    key TEXT PRIMARY KEY, model TEXT NOT NULL, kind TEXT NOT NULL, "
    "request TEXT NOT NULL, answer TEXT NOT NULL,\n"
    "    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
    "seconds REAL NOT NULL, made REAL NOT NULL\n"
    ") WITHOUT ROWID\n"
)


class RequestLog:
    """Answers by key, written as they come and visible to other processes at once."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        if not create and not path.exists():
            raise StoreError(f"{path}: no such request log")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Threads use the log one at a time, but not always the one that opened it: a reward
            # server's scorer runs in another.
            self.db = sqlite3.connect(
                path, timeout=60, isolation_level=None, check_same_thread=False
            )
            self._refuse_foreign(create)
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.execute(_TABLE)
        except sqlite3.Error as error:
            raise StoreError(
                f"{path}: not a request log ({error}); move it away to start a new one"
            ) from None
        self.path = path

    def _refuse_foreign(self, create: bool) -> None:
        """Nothing, if the database holds a log, or nothing yet: another program's gets no table."""
        tables = {name for (name,) in self.db.execute("SELECT name FROM sqlite_master")}
        if "calls" not in tables and (tables or not create):
            raise sqlite3.DatabaseError("it has no table of calls")

    def find(self, key: str) -> Any:
        """The answer's JSON value; `KeyError` when there is none."""
        row = self.db.execute("SELECT answer FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return _clean(json.loads(row[0]))

    def answered_kinds(self, model: str) -> set[str]:
        """The kinds of calls that a model has given a usable answer to."""
        usable = {"sample": '{"text"%', "choice": "[%"}
        query = "SELECT 1 FROM calls WHERE model = ? AND kind = ? AND answer LIKE ? LIMIT 1"
        return {
            kind
            for kind, pattern in usable.items()
            if self.db.execute(query, (model, kind, pattern)).fetchone()
        }

    def remove(self, key: str) -> None:
        """Delete one answer."""
        self.db.execute("DELETE FROM calls WHERE key = ?", (key,))

    def add(
        self,
        key: str,
        model: str,
        kind: str,
        request: str,
        answer: Any,
        tokens: tuple[int, int],
        seconds: float,
    ) -> None:
        """Log the answer to a request (JSON). An answer that another process has logged stays."""
        row = (key, model, kind, request, json.dumps(answer), *tokens, seconds, time.time())
        try:
            self.db.execute("INSERT OR IGNORE INTO calls VALUES (?,?,?,?,?,?,?,?,?)", row)
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: cannot write: {error}; "
                "nothing finished is lost: make room and run again"
            ) from None

    def stats(self) -> list[tuple[str, str, int, int, int, float]]:
        """(model, kind, calls, prompt tokens, completion tokens, seconds of waiting), by group."""
        return self.db.execute(
            "SELECT model, kind, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), "
            "SUM(seconds) FROM calls GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()

    def rows(self) -> Iterator[dict[str, Any]]:
        """All calls in the order in which they were answered."""
        cursor = self.db.execute("SELECT * FROM calls ORDER BY made, key")
        columns = [column[0] for column in cursor.description]
        for values in cursor:
            row = dict(zip(columns, values, strict=True))
            request, answer = json.loads(row["request"]), json.loads(row["answer"])
            yield row | {"request": _clean(request), "answer": _clean(answer)}

    def prune(self, *, before: float | None = None, model: str | None = None) -> int:
        """Delete calls answered before a time, or calls of one model, or those that are both.

        Args:
            before: seconds since 1970.
            model: a fingerprint.

        Returns:
            The number of deleted calls.
        """
        filters = [("made < ?", before), ("model = ?", model)]
        active = [(condition, value) for condition, value in filters if value is not None]
        if not active:
            raise StoreError("no calls selected: give --older-than DAYS, or --model MODEL, or both")
        where = " AND ".join(condition for condition, _ in active)
        values = [value for _, value in active]
        count = self.db.execute(f"DELETE FROM calls WHERE {where}", values).rowcount  # noqa: S608
        self.db.execute("VACUUM")
        return int(count)

    def close(self) -> None:
        self.db.close()


def _clean(value: Any) -> Any:
    """A JSON value without halves of surrogate pairs, which older versions logged."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return value

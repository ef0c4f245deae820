"""The request log: every answered call of a run in one SQLite file, so that none is paid for twice.

A call's key is the digest of fingerprint, chat, parameters and seed. The model's answer is kept
raw: a changed parser, filter or rubric parses it again without a new call. In WAL mode two
processes may share a log, and a killed process loses nothing that it had written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cai.errors import StoreError
from cai.files import write_errors

_SURROGATE = re.compile("[\ud800-\udfff]")
REQUEST_LOG_NAME = "requests.sqlite"
# Not WITHOUT ROWID: rows of a kilobyte in the order of their digests take three times the disk.
_TABLE = (
    "\nCREATE TABLE IF NOT EXISTS calls (\n"
    "    key TEXT PRIMARY KEY, model TEXT NOT NULL, kind TEXT NOT NULL, "
    "request TEXT NOT NULL, answer TEXT NOT NULL,\n"
    "    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, "
    "seconds REAL NOT NULL, made REAL NOT NULL\n"
    ")\n"
)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "key": str,
    "model": str,
    "kind": str,
    "request": str,
    "answer": str,
    "prompt_tokens": int,
    "completion_tokens": int,
    "seconds": (int, float),
    "made": (int, float),
}
"""Column -> type of its values. A damaged page may hold others."""


class RequestLog:
    """Answers by key, written as they come and visible to other processes at once."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        if not create and not path.exists():
            raise StoreError(f"{path}: no such request log")
        with write_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with self._errors():
            # Threads use the log one at a time, but not always the one that opened it: a reward
            # server's scorer runs in another.
            self.db = sqlite3.connect(
                path, timeout=60, isolation_level=None, check_same_thread=False
            )
            self._refuse_foreign_tables(create)  # before anything is written
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=NORMAL")
            self.db.execute(_TABLE)

    def find(self, key: str) -> Any:
        """The answer's JSON value; `KeyError` when there is none, or none that can be read."""
        with self._errors():
            row = self.db.execute("SELECT answer FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        try:
            return _clean(json.loads(row[0]))
        except (ValueError, TypeError, RecursionError):
            self.remove(key)
            raise KeyError(key) from None

    def answered_kinds(self, model: str) -> set[str]:
        """The kinds of calls that a model has given a usable answer to."""
        usable = {"sample": '{"text"%', "choice": "[%"}
        query = "SELECT 1 FROM calls WHERE model = ? AND kind = ? AND answer LIKE ? LIMIT 1"
        with self._errors():
            return {
                kind
                for kind, pattern in usable.items()
                if self.db.execute(query, (model, kind, pattern)).fetchone()
            }

    def remove(self, key: str) -> None:
        """Delete one answer."""
        with self._errors():
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
        with self._errors():
            self.db.execute("INSERT OR IGNORE INTO calls VALUES (?,?,?,?,?,?,?,?,?)", row)

    def stats(self) -> list[tuple[str, str, int, int, int, float]]:
        """(model, kind, calls, prompt tokens, completion tokens, seconds of waiting), by group."""
        with self._errors():
            groups = self.db.execute(
                "SELECT model, kind, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), "
                "SUM(seconds) FROM calls GROUP BY 1, 2 ORDER BY 1, 2"
            ).fetchall()
        for model, kind, *sums in groups:
            if not isinstance(model, str) or not isinstance(kind, str) or None in sums:
                raise _damaged(self.path, "a row holds values of other types")
        return groups

    def rows(self) -> Iterator[dict[str, Any]]:
        """All calls in the order in which they were answered."""
        with self._errors():
            cursor = self.db.execute("SELECT * FROM calls ORDER BY made, key")
            for values in cursor:
                row = dict(zip(_TYPES, values, strict=True))
                if not all(isinstance(row[name], kind) for name, kind in _TYPES.items()):
                    raise _damaged(self.path, "a row holds values of other types")
                try:
                    request, answer = json.loads(row["request"]), json.loads(row["answer"])
                except (ValueError, RecursionError):
                    raise _damaged(self.path, "a row holds no JSON") from None
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
        with self._errors():
            deleted = self.db.execute(f"DELETE FROM calls WHERE {where}", values)  # noqa: S608
            self.db.execute("VACUUM")
        return int(deleted.rowcount)

    def close(self) -> None:
        with self._errors():
            self.db.close()

    def _refuse_foreign_tables(self, create: bool) -> None:
        """Nothing, if the file holds a request log's table, or is new and one may be created.

        Raises:
            StoreError: it is another program's database, or an empty one.
        """
        query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        tables = [name for (name,) in self.db.execute(query)]
        columns = [column[1] for column in self.db.execute("PRAGMA table_info(calls)")]
        if not tables and not create:
            raise StoreError(f"{self.path}: not a request log: it has no table of calls")
        if columns != list(_TYPES) and tables:
            held = "another table `calls`" if columns else f"the table `{tables[0]}`"
            raise StoreError(
                f"{self.path}: not a request log, but a database with {held}: "
                "name another file, or move it away to start a new one"
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what SQLite cannot do as one line: what, where, what to do."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            raise _store_error(self.path, error) from None


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    # the lowest byte of an extended code; what Python's module itself cannot decode has none
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return _damaged(path, "a text that is not UTF-8")
    code &= 0xFF
    reason = " ".join(str(error).split())
    if code == sqlite3.SQLITE_FULL or (code in _DISK_ERRORS and _is_disk_full(path)):
        return StoreError(
            f"{path}: the disk is full; nothing finished is lost: make room and run again"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return StoreError(
            f"{path}: not a request log ({reason}): name another file, or move it away to start a "
            "new one"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_TOOBIG):
        return _damaged(path, reason)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(f"{path}: another process holds the request log: wait for it")
    return StoreError(
        f"{path}: the request log cannot be read or written ({reason}): check the disk, and the "
        "permissions of the file and its folder; nothing finished is lost"
    )


_DISK_ERRORS = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
"""What SQLite says, among others, of a disk without room for its helper files."""


def _is_disk_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path}: the request log is damaged ({reason}): restore a copy, save what is readable "
        f"with `sqlite3 {path.name} .recover`, or move it away: then its calls are paid for again"
    )


def _clean(value: Any) -> Any:
    """A JSON value without halves of surrogate pairs, which older versions logged."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return value

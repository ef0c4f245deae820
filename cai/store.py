"""Files that a kill cannot spoil: rows in JSONL, manifests beside them, whole-or-nothing publishing.

A line is written whole and flushed; a line torn by a kill is cut on the next start; everything else is written aside and
renamed, so existence means done. Rows come out in the order of the input, however the work was scheduled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from cai.errors import StoreError
from cai.records import FrozenModel, Row

RowT = TypeVar("RowT", bound=Row)


# ---- reading ----


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) for every line of a JSONL file; `-` reads standard input.

    Raises:
        StoreError: file missing, or a line that is not a JSON object, as `file:line`.
    """
    with contextlib.ExitStack() as stack:
        if str(path) == "-":
            lines: Iterable[bytes] = sys.stdin.buffer
        else:
            lines = stack.enter_context(_open(path))
        for number, raw in enumerate(lines, 1):
            try:
                line = raw.decode()
                data = json.loads(line)
            except UnicodeDecodeError:
                raise StoreError(f"{path}:{number}: not UTF-8 text") from None
            except (ValueError, RecursionError) as error:  # ValueError: a syntax error, or a number of thousands of digits
                why = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else "number too long")
                raise StoreError(f"{path}:{number}: not JSON ({why}): {_start(line)}") from None
            if not isinstance(data, dict):
                raise StoreError(f"{path}:{number}: expected a JSON object, found {type(data).__name__}")
            yield number, data


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise StoreError(f"{path}: cannot read: {error.strerror}") from None


def _start(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 40 else text[:40] + "…")


def read(path: Path, kind: type[RowT]) -> Iterator[RowT]:
    """Rows of `path`. A missing file, a torn line or a wrong key is a StoreError that names file and line."""
    for number, data in json_lines(path):
        yield parse_row(data, kind, f"{path}:{number}")


def parse_row(data: Mapping[str, Any], kind: type[RowT], place: str) -> RowT:
    """One row from a JSON object; `place` starts the error message."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or kind.__name__
        raise StoreError(f"{place}: {where}: {first['msg']}") from None


# ---- writing ----


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritten(path, error.errno, error.strerror or str(error)) from None
    except SafetensorError as error:  # tells the system's error in words
        number = re.search(r"os error (\d+)", str(error))
        raise _unwritten(path, int(number[1]) if number else None, str(error)) from None


def _unwritten(path: Path, number: int | None, why: str) -> StoreError:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"{path}: the disk is full; nothing finished is lost: make room and run again")
    return StoreError(f"{path}: cannot write: {why}")


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add whole lines, in one write. When the disk fills up, what was half written is taken back."""
    data = "".join(row.line() + "\n" for row in rows).encode()
    append_bytes(path, data)


def append_bytes(path: Path, data: bytes) -> None:
    with _write_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(handle, data[written:])
            except OSError:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def truncate_torn_line(path: Path) -> None:
    """Cut a line torn by a kill mid-write: everything after the last newline goes. No file: nothing to do."""
    if not path.exists():
        return
    with _write_errors(path), path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        block = 1 << 16
        while end > 0:
            start = max(0, end - block)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def atomic_write(path: Path, text: str) -> None:
    """Write `path` whole or not at all; readers may treat its existence as "done"."""
    partial = path.with_name(path.name + ".partial")
    with _write_errors(path):
        try:
            with partial.open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a folder to fill; on success it becomes `path` by one rename, on failure it stays aside for the next try."""
    aside = partial_path(path)
    with _write_errors(path):
        aside.mkdir(parents=True, exist_ok=True)
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.replace(aside, path)


def partial_path(path: Path) -> Path:
    """Where `atomic_directory` keeps what is not whole yet."""
    return path.with_name(path.name + ".partial")


# ---- manifests ----


class Manifest(FrozenModel):
    """What an artefact was made from and with. Two artefacts with equal `made` have equal content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    made: dict[str, str]
    """What decides the content: digests of config, inputs, constitution parts, templates; fingerprints; seed."""
    versions: dict[str, str]
    finished: bool = False
    counts: dict[str, float | int | str | None] = {}
    """Rows, tokens, seconds and the like: told, not compared."""


def manifest_path(artefact: Path) -> Path:
    """`10-revisions.manifest.json` beside `10-revisions.jsonl`; `20-sft.manifest.json` beside `20-sft/`."""
    return artefact.with_name(artefact.stem + ".manifest.json")


def read_manifest(artefact: Path) -> Manifest | None:
    path = manifest_path(artefact)
    if not path.exists():
        return None
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise StoreError(f"{path}: not a manifest of this version of cai; move the run folder away to start afresh") from None


def begin(artefact: Path, stage: str, made: Mapping[str, str]) -> Manifest | None:
    """Claim an artefact for `stage`. Returns its manifest when it is already finished, None when there is work to do.

    Raises:
        StoreError: the artefact was made from something else; every key that differs is named.
    """
    found = read_manifest(artefact)
    if found is not None:
        if differs := differing(found, made):
            raise StoreError(
                f"{artefact}: made with another {', '.join(differs)}: run into a new folder, or to make it anew "
                f"delete {artefact.parent}/{artefact.name[:2]}* and everything numbered after it"
            )
        if found.finished and artefact.exists():
            return found
    claim(artefact, stage, made)
    return None


def differing(found: Manifest, made: Mapping[str, str]) -> list[str]:
    """Keys in which what an artefact was made from differs from what it would be made from now."""
    return sorted(key for key in found.made.keys() | made.keys() if found.made.get(key) != made.get(key))


def claim(artefact: Path, stage: str, made: Mapping[str, str]) -> None:
    """Write the manifest of an artefact yet to be made."""
    atomic_write(
        manifest_path(artefact), Manifest(stage=stage, made=dict(made), versions=versions()).model_dump_json(indent=2) + "\n"
    )


def finish(artefact: Path, **counts: float | int | str | None) -> None:
    """Mark the artefact as whole."""
    found = read_manifest(artefact)
    if found is None:
        raise StoreError(f"{artefact}: no manifest: begin() comes before finish()")
    whole = found.model_copy(update={"finished": True, "counts": counts})
    atomic_write(manifest_path(artefact), whole.model_dump_json(indent=2) + "\n")


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("cai", "torch", "transformers", "trl", "peft")}


def digest(*parts: str | bytes | BaseModel) -> str:
    """First 16 hex digits of the SHA-256 of the parts, each preceded by its length."""
    total = sha256()
    for part in parts:
        if isinstance(part, BaseModel):
            part = part.model_dump_json()
        data = part.encode() if isinstance(part, str) else part
        total.update(f"{len(data)}:".encode() + data)
    return total.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Digest of a file's bytes, or of a folder's file names and bytes."""
    total = sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        total.update(f"{file.relative_to(path) if path.is_dir() else ''}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]


# ---- the run folder ----


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The kernel lets go of the lock when the process ends, however it ends.

    Raises:
        StoreError: another process holds it (its number is named).
    """
    with _write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+", encoding="utf-8")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise StoreError(f"{folder}: in use by process {holder}; wait for it, or give another run folder") from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield

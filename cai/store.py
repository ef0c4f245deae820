"""Crash-safe files: rows in JSONL, manifests of artefacts, atomic writes, a lock per folder.

Each line is appended complete; a line torn by a kill is truncated on the next start. The rest is
written to a partial file or folder and renamed, so that existence means finished. Rows are in the
order of the input, whatever the order in which the work was scheduled.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from cai.errors import StoreError
from cai.json_input import json_lines as json_lines
from cai.records import FrozenModel, Row

RowT = TypeVar("RowT", bound=Row)


# ---- reading ----


def read_rows(path: Path, kind: type[RowT]) -> Iterator[RowT]:
    """Rows of `path`.

    Raises:
        StoreError: the file is missing, a line is torn or a key is wrong, as `file:line`.
    """
    for number, data in json_lines(path):
        yield parse_row(data, kind, f"{path}:{number}")


def parse_row(data: Mapping[str, Any], kind: type[RowT], location: str) -> RowT:
    """One row from a JSON object; `location` begins the error message."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or kind.__name__
        raise StoreError(f"{location}: {key}: {first['msg']}") from None


# ---- writing ----


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _write_error(path, error.errno, error.strerror or str(error)) from None
    except SafetensorError as error:  # holds the system's error number in its text only
        match = re.search(r"os error (\d+)", str(error))
        raise _write_error(path, int(match[1]) if match else None, str(error)) from None


def _write_error(path: Path, code: int | None, reason: str) -> StoreError:
    if code in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"{path}: the disk is full; nothing finished is lost: make room and run again"
        )
    return StoreError(f"{path}: cannot write: {reason}")


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Append the rows as complete lines, in one write; see `append_bytes`."""
    append_bytes(path, "".join(row.line() + "\n" for row in rows).encode())


def append_bytes(path: Path, data: bytes) -> None:
    """Append all of `data` or nothing: a partial write (a full disk, say) is undone."""
    with _write_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size_before = os.fstat(handle).st_size
            try:
                written = 0
                while written < len(data):
                    written += os.write(handle, data[written:])
            except OSError:
                os.ftruncate(handle, size_before)
                raise
        finally:
            os.close(handle)


def truncate_torn_line(path: Path) -> None:
    """Remove everything after the last newline: a line torn by a kill mid-write."""
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
    """Write `path` completely or not at all, so that its existence means finished."""
    partial = partial_path(path)
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
    """Yield a partial folder to fill, which becomes `path` by one rename.

    After a failure the partial folder remains, for the next try.
    """
    partial = partial_path(path)
    with _write_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)


def partial_path(path: Path) -> Path:
    """The path under which `path` is written until it is complete."""
    return path.with_name(path.name + ".partial")


# ---- manifests ----


class Manifest(FrozenModel):
    """The provenance of an artefact. Two artefacts with equal `provenance` have equal content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    provenance: dict[str, str]
    """The provenance: digests of config, inputs, constitution parts and templates; models; seed."""
    versions: dict[str, str]
    finished: bool = False
    counts: dict[str, float | int | str | None] = {}
    """Rows, tokens, seconds and the like: reported, not compared."""


def manifest_path(artefact: Path) -> Path:
    """`30-pairs.manifest.json` for `30-pairs.jsonl`, `20-sft.manifest.json` for `20-sft/`."""
    return artefact.with_name(artefact.stem + ".manifest.json")


def read_manifest(artefact: Path) -> Manifest | None:
    """The manifest of an artefact; None when there is no file.

    Raises:
        StoreError: the file is not a manifest of this version.
    """
    path = manifest_path(artefact)
    if not path.exists():
        return None
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        raise StoreError(
            f"{path}: not a manifest of this version of cai; move the run folder away to start anew"
        ) from None


def begin_artifact(artefact: Path, stage: str, provenance: Mapping[str, str]) -> Manifest | None:
    """Claim an artefact for `stage`.

    Returns:
        The manifest of an artefact that is already finished; None when it is yet to be made.

    Raises:
        StoreError: the artefact has another provenance; every key that differs is named.
    """
    manifest = read_manifest(artefact)
    if manifest is not None:
        if keys := differing_keys(manifest, provenance):
            raise StoreError(
                f"{artefact}: made with another {', '.join(keys)}: run into a new folder, or to "
                f"make it anew delete {artefact.parent}/{artefact.name[:2]}* and everything "
                "numbered after it"
            )
        if manifest.finished and artefact.exists():
            return manifest
    claim_artifact(artefact, stage, provenance)
    return None


def differing_keys(manifest: Manifest, provenance: Mapping[str, str]) -> list[str]:
    """The keys in which the recorded provenance differs from `provenance`, sorted."""
    recorded = manifest.provenance
    keys = recorded.keys() | provenance.keys()
    return sorted(key for key in keys if recorded.get(key) != provenance.get(key))


def claim_artifact(artefact: Path, stage: str, provenance: Mapping[str, str]) -> None:
    """Write the manifest of an artefact that is yet to be made."""
    _write_manifest(
        artefact, Manifest(stage=stage, provenance=dict(provenance), versions=versions())
    )


def finish_artifact(artefact: Path, **counts: float | int | str | None) -> None:
    """Mark the artefact as finished, and record its counts."""
    manifest = read_manifest(artefact)
    if manifest is None:
        raise StoreError(f"{artefact}: no manifest: begin() comes before finish()")
    _write_manifest(artefact, manifest.model_copy(update={"finished": True, "counts": counts}))


def _write_manifest(artefact: Path, manifest: Manifest) -> None:
    atomic_write(manifest_path(artefact), manifest.model_dump_json(indent=2) + "\n")


def versions() -> dict[str, str]:
    """Versions of this package and of those that decide the content of artefacts."""
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
    """The digest of a file's bytes, or of the names and bytes of a folder's files."""
    total = sha256()
    is_folder = path.is_dir()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if is_folder else [path]
    for file in files:
        name = str(file.relative_to(path)) if is_folder else ""
        total.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]


# ---- the run folder ----


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The kernel releases the lock when the process ends.

    Raises:
        StoreError: another process holds the folder; its id is named.
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
            raise StoreError(
                f"{folder}: in use by process {holder}; wait for it, or give another run folder"
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield

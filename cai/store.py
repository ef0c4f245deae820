"""Files of rows in JSONL, and the manifests of artefacts.

Rows are in the order of the input, whatever the order in which the work was scheduled. How files
are written so that a kill cannot tear them: see `cai.files` and `cai.locks`, whose functions are
names of this module too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cai.artifacts import CARD, CARDED_LATER, EVALUATIONS, FILES
from cai.errors import StoreError
from cai.files import CHECKPOINTS as CHECKPOINTS
from cai.files import append_bytes as append_bytes
from cai.files import atomic_directory as atomic_directory
from cai.files import atomic_write as atomic_write
from cai.files import complete_file as complete_file
from cai.files import manifest_path as manifest_path
from cai.files import open_partial as open_partial
from cai.files import partial_path as partial_path
from cai.files import remove_partial as remove_partial
from cai.files import truncate_torn_line as truncate_torn_line
from cai.json_input import json_lines as json_lines
from cai.locks import locked as locked
from cai.locks import locked_name as locked_name
from cai.locks import new_folder as new_folder
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
        row = kind.model_validate(data)
        row.id  # noqa: B018 - computed once, and only of text that can be encoded
        return row
    except UnicodeEncodeError:
        raise StoreError(f"{location}: a text holds half a surrogate pair") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or kind.__name__
        raise StoreError(f"{location}: {key}: {first['msg']}") from None


# ---- writing ----


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Append the rows as complete lines, in one write; see `append_bytes`."""
    append_bytes(path, "".join(row.line() + "\n" for row in rows).encode())


# ---- manifests ----


class Manifest(FrozenModel):
    """The provenance of an artefact. Two artefacts with equal `provenance` have equal content.

    It is empty for a file that a command writes in one go: such a file is never continued.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    provenance: dict[str, str]
    """What decides the content: digests of config, inputs, constitution parts and templates;
    models; seed."""
    versions: dict[str, str]
    finished: bool = False
    content: dict[str, str] = {}
    """Name -> digest of the artefact and of the files that were finished with it.

    Empty in a manifest of an earlier version: then nothing is compared.
    """
    counts: dict[str, float | int | str | None] = {}
    """Rows, tokens, seconds and the like: reported, not compared."""


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
    except OSError as error:
        raise StoreError(f"{path}: cannot read: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError):
        raise StoreError(
            f"{path}: not a manifest of this version of cai: give another folder, or use the "
            "version that wrote it"
        ) from None


def begin_artifact(artefact: Path, stage: str, provenance: Mapping[str, str]) -> Manifest | None:
    """Claim an artefact for `stage`.

    Returns:
        The manifest of an artefact that is already finished; None when it is yet to be made.

    Raises:
        StoreError: the artefact has another provenance (every key that differs is named), or its
            content was changed since it was finished.
    """
    manifest = read_manifest(artefact)
    if manifest is not None:
        if keys := differing_keys(manifest, provenance):
            raise StoreError(
                f"{artefact}: made with another {', '.join(keys)}: run into a new folder, or to "
                f"make it anew delete, in {artefact.parent}: {', '.join(_files_of(artefact))}"
            )
        if is_finished(artefact, manifest):
            check_content(artefact, manifest)
            return manifest
    claim_artifact(artefact, stage, provenance)
    return None


def is_finished(artefact: Path, manifest: Manifest) -> bool:
    """Whether the stage ended, and left every file that there should be."""
    names = manifest.content or (artefact.name,)
    return manifest.finished and all(artefact.with_name(name).exists() for name in names)


def _files_of(artefact: Path) -> list[str]:
    """Names of the files there are of an artefact, and of those of a run that follow from it."""
    first = FILES.index(artefact.name) if artefact.name in FILES else None
    names = [artefact.name] if first is None else FILES[first:]
    related = [
        path
        for name in names
        for path in (
            artefact.with_name(name),
            manifest_path(artefact.with_name(name)),
            partial_path(artefact.with_name(name)),
            artefact.with_name(name).with_suffix(".kept.jsonl"),
        )
    ]
    return list(dict.fromkeys(path.name for path in related if path.exists()))


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


def finish_artifact(
    artefact: Path, /, *companions: Path, **counts: float | int | str | None
) -> None:
    """Mark the artefact as finished, and record its counts and the digest of its content.

    Args:
        companions: files in the same folder that were made with it.
    """
    manifest = read_manifest(artefact)
    if manifest is None:
        raise StoreError(f"{artefact}: no manifest: begin() comes before finish()")
    content = {path.name: content_digest(path) for path in (artefact, *companions)}
    finished = {"finished": True, "content": content, "counts": counts}
    _write_manifest(artefact, manifest.model_copy(update=finished))


def check_content(artefact: Path, manifest: Manifest, only: str | None = None) -> None:
    """Nothing, if the artefact and its companions are as its stage left them.

    Args:
        only: name of the one file to look at.

    Raises:
        StoreError: one of them was changed.
    """
    for name, recorded in manifest.content.items():
        path = artefact.with_name(name)
        if only not in (None, name):
            continue
        if path.exists() and content_digest(path) != recorded:
            files = ", ".join(dict.fromkeys((*manifest.content, manifest_path(artefact).name)))
            raise StoreError(
                f"{path}: not as the stage {manifest.stage} left it: cut, damaged or edited; "
                f"restore it, or accept it as it is with: cai run … --accept "
                f"{_named_in_run(path)}, or delete "
                f"{files} to make it anew"
            )


def _named_in_run(path: Path) -> str:
    """The name of an artefact's file, from the run's folder: those of evaluations lie deeper."""
    folders = [number for number, part in enumerate(path.parts[:-1]) if part == EVALUATIONS]
    return "/".join(path.parts[folders[-1] :]) if folders else path.name


def accept_content(artefact: Path, name: str) -> None:
    """Record the present content of `name`, an artefact or a companion, as the right one.

    Raises:
        StoreError: there is no such file, or no stage has finished it.
    """
    manifest, path = read_manifest(artefact), artefact.with_name(name)
    if manifest is None or not manifest.finished or not path.exists():
        raise StoreError(f"{path}: nothing to accept: no stage has finished it")
    content = manifest.content | {name: content_digest(path)}
    _write_manifest(artefact, manifest.model_copy(update={"content": content}))


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
    with _read_errors(path):
        return _digest_of_files(path, _files_below(path))


def content_digest(path: Path) -> str:
    """`file_digest`, without a folder's `checkpoints/`, which are removed when it is finished, and
    without the card of a model, which is written later.

    A process computes it again only if a file's size, times or number changed.
    """
    with _read_errors(path):
        left_out = [WORKING, *([(CARD,)] if path.name in CARDED_LATER else [])]
        files = [
            file for file in _files_below(path) if file.relative_to(path).parts[:1] not in left_out
        ]
        return _cached_digest(path, tuple(_signature(file) for file in files))


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise StoreError(f"{where}: cannot read: {error.strerror or error}") from None


WORKING = (CHECKPOINTS,)
"""Path of a finished folder's part that is of no more use."""


class _Signature(NamedTuple):
    """A file, and what changes when its content does."""

    file: Path
    device: int
    number: int
    size: int
    modified_ns: int
    changed_ns: int


def _signature(file: Path) -> _Signature:
    status = file.stat()
    return _Signature(
        file,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


@lru_cache(maxsize=64)
def _cached_digest(path: Path, signatures: tuple[_Signature, ...]) -> str:
    return _digest_of_files(path, [signature.file for signature in signatures])


def _files_below(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _digest_of_files(path: Path, files: Sequence[Path]) -> str:
    total = sha256()
    is_folder = path.is_dir()
    for file in files:
        name = str(file.relative_to(path)) if is_folder else ""
        total.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as data:
            while block := data.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]

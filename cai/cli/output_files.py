"""Output files of commands: whose they are, what they are made from, and who writes them now.

A manifest lies beside each. A file that grows row by row is continued only by the command that
began it, and its manifest names everything that decides its rows, so that two constitutions,
models, presets or seeds never share a file. A file that is written in one go is replaced only by
the command that wrote it, and only if nobody has changed it since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from cai.cli.jsonl import ALL_THOUGHT_FIELDS, Located, LocatedT
from cai.errors import StoreError, UsageError, is_passing
from cai.files import DISK_FULL


def refuse_input_as_output(output: Path, *sources: Path) -> None:
    """Nothing, if the output is none of the inputs.

    Raises:
        UsageError: it is one, by whatever path or link.
    """
    for source in sources:
        if output.exists() and source.exists() and os.path.samefile(output, source):
            raise UsageError(f"--output {output}: this is the input itself: name another file")


def refuse_other_format(output: Path) -> None:
    """Nothing, if the name of the output promises no other format than JSONL.

    Raises:
        UsageError: it does, as that of a CSV file.
    """
    from cai.data.writers import OTHER_FORMATS

    if output.suffix.lower() in (*OTHER_FORMATS, ".parquet"):
        raise UsageError(f"--output {output}: written as JSONL only: end the name with .jsonl")


def is_stream(path: Path) -> bool:
    """Whether output is written as it comes: standard output, a pipe, a device."""
    return path == Path("-") or (path.exists() and not path.is_file() and not path.is_dir())


@contextlib.contextmanager
def owned_output(output: Path, command: str, provenance: Mapping[str, str]) -> Iterator[None]:
    """Inside, this process alone writes `output`, which is new, or was begun from the same.

    Args:
        command: the file tool.
        provenance: what decides its rows: digests of constitution and settings, model fingerprint,
            seed.

    Raises:
        StoreError: another process writes it.
        UsageError: it is a folder, another program's file, or was made from something else.
    """
    from cai import store

    refuse_other_format(output)
    if output.is_dir():
        raise UsageError(f"--output {output}: this is a folder: name a file")
    manifest_file = store.manifest_path(output)
    if output.exists() and output.stat().st_size and not manifest_file.exists():
        raise UsageError(
            f"--output {output}: there is a file already, and {command} did not begin it"
            f" ({manifest_file.name} is missing): name another file, or remove it"
        )
    try:
        file = output.open("ab")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StoreError(f"{output}: the disk is full: make room and run again") from None
        raise UsageError(f"--output {output}: cannot write: {error.strerror}") from None
    with file:
        busy = StoreError(f"{output}: another process is writing it: wait for it")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            raise StoreError(
                f"{output}: cannot be locked: {error.strerror}; name a file on another disk"
            ) from None
        if not _is_same_file(file.fileno(), output):
            raise busy  # it was replaced between the two calls
        _check_manifest(output, command, provenance)
        yield


def _check_manifest(output: Path, command: str, provenance: Mapping[str, str]) -> None:
    from cai import store

    manifest = store.read_manifest(output)
    if manifest is None or not output.stat().st_size:
        store.claim_artifact(output, command, provenance)
        return
    changed = store.differing_keys(manifest, provenance)
    if manifest.stage != command:
        changed.insert(0, f"command ({manifest.stage})")
    if changed:
        raise UsageError(
            f"--output {output}: its rows were made with another {', '.join(changed)}:"
            f" name another file, or remove it and {store.manifest_path(output).name}"
        )


@contextlib.contextmanager
def replaced_output(output: Path, command: str, *sources: Path) -> Iterator[None]:
    """Inside, this process alone writes `output`, in one go: see `write_output`, `replacing`.

    Args:
        command: the command that writes.
        sources: its inputs.

    Raises:
        StoreError: another process writes it.
        UsageError: it is no file, an input, or a file with something else in it.
    """
    from cai import store

    if output.is_dir():
        raise UsageError(f"--output {output}: this is a folder: name a file")
    if is_stream(output):
        raise UsageError(f"{command}: --output {output}: this must be a file")
    refuse_input_as_output(output, *sources)
    with store.locked_name(output):
        _refuse_foreign(output, command)
        yield


@contextlib.contextmanager
def replacing(output: Path, command: str) -> Iterator[None]:
    """Inside, `output` is written, atomically; its manifest says by which command."""
    from cai import store

    _refuse_foreign(output, command)  # the work took time: somebody may have used the name
    store.claim_artifact(output, command, {})
    yield
    store.finish_artifact(output)


def make_folder(folder: Path) -> None:
    """Make the folder of a command's outputs, if there is none.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot make the folder: {error.strerror}") from None


def write_output(output: Path, command: str, text: str) -> None:
    """Write a file that `replaced_output` holds."""
    from cai import store

    with replacing(output, command):
        store.atomic_write(output, text)


def _refuse_foreign(output: Path, command: str) -> None:
    """Nothing, if `output` is new, empty, or as this command left it.

    While the manifest is not finished, a kill has interrupted the command at the last step.

    Raises:
        UsageError: it is none of these.
    """
    from cai import store

    manifest = store.read_manifest(output)
    if not output.exists() or not output.stat().st_size:
        return
    if manifest is None or manifest.stage != command:
        raise UsageError(
            f"--output {output}: exists and was not written by cai {command}:"
            " give another --output, or move it away"
        )
    if manifest.finished and manifest.content.get(output.name) != store.content_digest(output):
        raise UsageError(
            f"--output {output}: was changed since cai {command} wrote it:"
            " give another --output, or move it away"
        )


def _is_same_file(handle: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(handle), path.stat())


@dataclass
class FinishedRows(Generic[LocatedT]):
    """The rows of an output."""

    reasons: Counter[str | None] = field(default_factory=Counter)
    """Why rows are null -> how many; None: those that are not."""
    thoughts: Counter[str] = field(default_factory=Counter)
    """Field, without its prefix -> replies whose thought it keeps."""
    unanswered: dict[int, tuple[LocatedT, str]] = field(default_factory=dict)
    """Number of a line -> the input's line and the reason, of rows that are worth asking again."""


def read_finished(
    output: Path, rows: Iterator[LocatedT], prefix: str = ""
) -> FinishedRows[LocatedT]:
    """The rows that `output` has already, each the next of `rows` with fields added.

    A line that a kill left torn is cut.

    Args:
        rows: the input; those that are finished are taken from it.
        prefix: beginning of the names of the added fields.

    Raises:
        StoreError: a line of the output belongs to another input.
    """
    from cai import store
    from cai.cli.null_rows import null_reason

    store.truncate_torn_line(output)
    finished = FinishedRows[LocatedT]()
    for number, data in store.json_lines(output):
        line = next(rows, None)
        if line is None:
            raise StoreError(
                f"{output}:{number}: the input has no such line: name another --output for it"
            )
        if any(name not in data or data[name] != value for name, value in line.data.items()):
            raise StoreError(
                f"{output}:{number}: this is not {line.location} with fields added:"
                " the input is another: name another --output for it"
            )
        added = {name: value for name, value in data.items() if name not in line.data}
        reason = null_reason(added, prefix)
        finished.reasons[reason] += 1
        finished.thoughts.update(
            name for name in ALL_THOUGHT_FIELDS if added.get(prefix + name) is not None
        )
        if reason is not None and is_passing(reason):
            finished.unanswered[number] = line, reason
    return finished


def refuse_collision(line: Located, fields: frozenset[str]) -> None:
    """Nothing, if a line has none of the fields that the tool adds.

    Raises:
        StoreError: it has one, which would be overwritten.
    """
    taken = sorted(fields & line.data.keys())
    if taken:
        raise StoreError(
            f"{line.location}: `{taken[0]}` is a field that this command adds: put something before"
            " the names of the added fields (--prefix judge_), or rename yours"
        )

"""Output files of file tools: whose they are, what they are made from, and who writes them now.

Only a file that a file tool began is continued. Its manifest lies beside it, and names everything
that decides its rows, so that two constitutions, models, presets or seeds never share a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cai.errors import StoreError, UsageError, is_passing
from cai.files import DISK_FULL

if TYPE_CHECKING:
    from cai.cli.jsonl import Line


def refuse_input_as_output(output: Path, *sources: Path) -> None:
    """Nothing, if the output is none of the inputs.

    Raises:
        UsageError: it is one, by whatever path or link.
    """
    for source in sources:
        if output.exists() and source.exists() and os.path.samefile(output, source):
            raise UsageError(f"--output {output}: this is the input itself: name another file")


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


def _is_same_file(handle: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(handle), path.stat())


@dataclass
class FinishedRows:
    """The rows of an output."""

    reasons: Counter[str | None] = field(default_factory=Counter)
    """Why rows are null -> how many; None: those that are not."""
    unanswered: dict[int, tuple[Line, str]] = field(default_factory=dict)
    """Number of a line -> the input's line and the reason, of rows that are worth asking again."""


def read_finished(output: Path, rows: Iterator[Line]) -> FinishedRows:
    """The rows that `output` has already, each the next of `rows` with fields added.

    A line that a kill left torn is cut.

    Args:
        rows: the input; those that are finished are taken from it.

    Raises:
        StoreError: a line of the output belongs to another input.
    """
    from cai import store
    from cai.cli.null_rows import null_reason

    store.truncate_torn_line(output)
    finished = FinishedRows()
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
        reason = null_reason(data)
        finished.reasons[reason] += 1
        if reason is not None and is_passing(reason):
            finished.unanswered[number] = line, reason
    return finished


def refuse_collision(line: Line, fields: frozenset[str]) -> None:
    """Nothing, if a line has none of the fields that the tool adds.

    Raises:
        StoreError: it has one, which would be overwritten.
    """
    taken = sorted(fields & line.data.keys())
    if taken:
        raise StoreError(
            f"{line.location}: `{taken[0]}` is a field that this command adds:"
            " rename yours, so that it is not overwritten"
        )

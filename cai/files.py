"""Crash-safe writes: appends of complete lines, atomic files and folders.

A file or folder is written under a name of its own and renamed, so that existence means finished.
No symbolic link is followed on the way, and nothing is removed or filled that is not this
package's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from cai.errors import StoreError

PARTIAL_MARK = ".cai-partial"
"""A file in each partial folder that this package made; removed when the folder is renamed."""
CHECKPOINTS = "checkpoints"
"""Folder in the partial folder of a model, with the states of its training. It is removed just
after the rename: until then a kill needs it."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise what goes wrong with the disk as a StoreError that begins with `path`."""
    try:
        yield
    except OSError as error:
        raise _write_error(path, error.errno, error.strerror or str(error)) from None
    except SafetensorError as error:  # holds the system's error number in its text only
        match = re.search(r"os error (\d+)", str(error))
        raise _write_error(path, int(match[1]) if match else None, str(error)) from None
    except UnicodeEncodeError:
        raise StoreError(f"{path}: cannot write: the text holds half a surrogate pair") from None


def _write_error(path: Path, code: int | None, reason: str) -> StoreError:
    if code in DISK_FULL:
        return StoreError(
            f"{path}: the disk is full; nothing finished is lost: make room and run again"
        )
    return StoreError(f"{path}: cannot write: {reason}")


def append_bytes(path: Path, data: bytes) -> None:
    """Append all of `data` or nothing: a partial write (a full disk, say) is undone."""
    with write_errors(path):
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
    with write_errors(path), path.open("r+b") as file:
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
    with (
        write_errors(path),
        complete_file(path) as partial,
        partial.open("w", encoding="utf-8") as out,
    ):
        out.write(text)


@contextlib.contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield an empty file to fill, which becomes `path` by one rename; after a failure, nothing."""
    # A name that nobody else uses. What is there under it, a kill has left, or it is a link that
    # somebody planted: it is unlinked, never opened.
    partial = path.with_name(f".{path.name}{PARTIAL_MARK}")
    try:
        partial.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        os.close(os.open(partial, flags, 0o666))
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a partial folder to fill, which becomes `path` by one rename.

    After a failure the partial folder remains, for the next try.

    Raises:
        StoreError: the partial folder's name is taken by something that is not this package's.
    """
    with write_errors(path):
        partial = open_partial(path)
        yield partial
        for file in partial.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
        unmark_complete(path)  # after the rename: without its mark, a kill's folder is nobody's


def unmark_complete(path: Path) -> None:
    """Remove what a kill, just after the rename, has left in the complete folder: its mark, and
    the states of its training.
    """
    if (path / PARTIAL_MARK).exists():  # else the folder is somebody else's
        shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
        (path / PARTIAL_MARK).unlink(missing_ok=True)


def open_partial(path: Path) -> Path:
    """The partial folder of `path`: a new one, or the one that a killed command left.

    Raises:
        StoreError: what has that name is a link, a file, or a folder that this package did not
            make.
    """
    partial = partial_path(path)
    with write_errors(partial):
        if partial.is_symlink() or (partial.exists() and not is_marked_partial(path)):
            raise StoreError(
                f"{partial}: this name is needed while {path.name} is written, and is taken by "
                "something that cai did not make: rename that, or give another output"
            )
        partial.mkdir(parents=True, exist_ok=True)
        (partial / PARTIAL_MARK).touch()
    return partial


def is_marked_partial(path: Path) -> bool:
    """Whether the partial folder of `path` is this package's, and may be filled and removed.

    An empty folder is taken for one; so is that of an artefact whose manifest is beside it.
    """
    partial = partial_path(path)
    if partial.is_symlink() or not partial.is_dir():
        return False
    if (partial / PARTIAL_MARK).exists() or not any(partial.iterdir()):
        return True
    manifest = manifest_path(path)
    return manifest.is_file() and b'"provenance"' in manifest.read_bytes()


def remove_partial(path: Path) -> None:
    """Remove the partial folder of `path` if this package made it."""
    if not is_marked_partial(path):
        return
    partial = partial_path(path)
    with write_errors(partial):
        for child in partial.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != PARTIAL_MARK:
                child.unlink()
        (partial / PARTIAL_MARK).unlink(missing_ok=True)  # last: a kill must not leave it unmarked
        partial.rmdir()


def partial_path(path: Path) -> Path:
    """The path under which the folder `path` is written until it is complete."""
    return path.with_name(path.name + ".partial")


def manifest_path(artefact: Path) -> Path:
    """`30-pairs.manifest.json` for `30-pairs.jsonl`, `20-sft.manifest.json` for `20-sft/`.

    Other files keep their suffix, so that `x.yaml` and `x.jsonl` have a manifest each.
    """
    name = artefact.stem if artefact.suffix == ".jsonl" else artefact.name
    return artefact.with_name(name + ".manifest.json")

"""Crash-safe writes: appends of complete lines, atomic files and folders, a lock per folder.

A file or folder is written under a name of its own and renamed, so that existence means finished.
No symbolic link is followed on the way, and nothing is removed or filled that is not this
package's.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from cai.errors import StoreError

PARTIAL_MARK = ".cai-partial"
"""A file in each partial folder that this package made; removed before the folder is renamed."""
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
    # A name that nobody else uses. What is there under it, a kill has left, or it is a link that
    # somebody planted: it is unlinked, never opened.
    partial = path.with_name(f".{path.name}{PARTIAL_MARK}")
    with write_errors(path):
        try:
            partial.unlink(missing_ok=True)
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
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
        (partial / PARTIAL_MARK).unlink(missing_ok=True)
        os.replace(partial, path)


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
    if is_marked_partial(path):
        with write_errors(partial_path(path)):
            shutil.rmtree(partial_path(path))


def partial_path(path: Path) -> Path:
    """The path under which the folder `path` is written until it is complete."""
    return path.with_name(path.name + ".partial")


def manifest_path(artefact: Path) -> Path:
    """`30-pairs.manifest.json` for `30-pairs.jsonl`, `20-sft.manifest.json` for `20-sft/`."""
    return artefact.with_name(artefact.stem + ".manifest.json")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The kernel releases the lock when the process ends.

    Raises:
        StoreError: another process holds the folder; its id is named.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"{folder}: in use by process {holder}; wait for it, or give another run folder"
            ) from None
        except OSError as error:
            raise StoreError(
                f"{folder}: cannot be locked: {error.strerror}; give a folder on another disk"
            ) from None
        with write_errors(folder / ".lock"):
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)

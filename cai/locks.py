"""Locks: one process at a time writes a run's folder, a file or a new folder.

The kernel releases a lock when its process ends, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cai.errors import StoreError
from cai.files import (
    CHECKPOINTS,
    PARTIAL_MARK,
    atomic_write,
    open_partial,
    partial_path,
    remove_partial,
    unmark_complete,
    write_errors,
)

LOCK_MARK = ".cai-lock"
"""End of the name of the file that holds the lock of a name."""
WORK_FILE = "work.json"
"""Among the states of a training: what they are of."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process. The kernel releases the lock when the process ends.

    Raises:
        StoreError: another process holds the folder; its id is named.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _open_lock(folder / ".lock")
    try:
        if not _lock_now(lock, folder):
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"{folder}: in use by process {holder}; wait for it, or give another run folder"
            )
        with write_errors(folder / ".lock"):
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def locked_name(path: Path) -> Iterator[None]:
    """Hold the name `path`, under which there may be nothing yet, for this process.

    The lock is a file beside it. A kill leaves that file, without the lock: the next process takes
    it over.

    Raises:
        StoreError: another process holds the name.
    """
    lock_file = path.with_name(f".{path.name}{LOCK_MARK}")
    while True:
        with write_errors(path):
            lock = _open_lock(lock_file)
        try:
            if not _lock_now(lock, path):
                raise StoreError(f"{path}: another process is writing it: wait for it")
            if not _is_file_at(lock, lock_file):
                continue  # its holder has removed it meanwhile: what is locked is of no name
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    lock_file.unlink()
            return
        finally:
            os.close(lock)


def _open_lock(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _lock_now(lock: int, path: Path) -> bool:
    """Take the lock; False if another process has it.

    Raises:
        StoreError: the disk of `path` has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be locked: {error.strerror}; give a folder on another disk"
        ) from None
    return True


def _is_file_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def new_folder(path: Path, work: Mapping[str, str] | None = None) -> Iterator[None]:
    """Inside, this process alone may write the folder `path`, which is not there yet.

    What a killed process has left under its partial name is removed: it may be other work.

    Args:
        work: what decides the folder's content, of a training that saves states in the partial
            folder's `checkpoints`. Those stay, after a kill and after an error, and the same work
            goes on with them.

    Raises:
        StoreError: there is something already, another process writes it, its partial folder is
            not this package's, or it has states of other work, whose keys that differ are named.
    """
    if not path.name:
        raise StoreError(f"{path}: exists already: name a new folder")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked_name(path):
        _refuse_existing(path)
        home = partial_path(path) / CHECKPOINTS
        if work is not None and _has_states(home):
            _refuse_other_work(home, work)
        else:
            remove_partial(path)
        open_partial(path)  # before the work, not after it: the name may be taken
        if work is not None:
            home.mkdir(exist_ok=True)
            atomic_write(home / WORK_FILE, json.dumps(dict(work)) + "\n")
        try:
            yield
        except BaseException:
            if work is None or not _has_states(home):
                remove_partial(path)
            raise


def _has_states(home: Path) -> bool:
    if not home.is_dir():
        return False
    return any(c.name != WORK_FILE and not is_working_file(c) for c in home.iterdir())


def _refuse_other_work(home: Path, work: Mapping[str, str]) -> None:
    try:
        recorded = json.loads((home / WORK_FILE).read_text(encoding="utf-8"))
        keys = [key for key in sorted(work) if recorded.get(key) != work[key]]
    except (OSError, ValueError, AttributeError):
        keys = sorted(work)
    if keys:
        raise StoreError(
            f"{home.parent}: holds an unfinished training with another {', '.join(keys)}: go on "
            "with that, or remove this folder, or give another output"
        )


def _refuse_existing(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        unmark_complete(path)
    if os.path.lexists(path):
        raise StoreError(f"{path}: exists already: name a new folder, or remove this one")


def is_working_file(path: Path) -> bool:
    """Whether a killed command left the file: the lock of a name, or a part of another file."""
    return path.name.startswith(".") and path.name.endswith((PARTIAL_MARK, LOCK_MARK))

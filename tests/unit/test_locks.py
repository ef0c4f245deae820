"""Locks of names: what a kill leaves does not block, and what another process holds does."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from interruptions import Killed, killed_at

from cai import locks
from cai.errors import StoreError
from cai.files import open_partial, partial_path, remove_partial
from cai.locks import locked_name, new_folder


def test_a_name_is_held_once(tmp_path: Path) -> None:
    """Whether there is a file of that name or not; nothing is left afterwards."""
    path = tmp_path / "x.jsonl"
    for _ in range(2):
        with locked_name(path):
            message = r"x\.jsonl: another process is writing it"
            with pytest.raises(StoreError, match=message), locked_name(path):
                pass
            with locked_name(tmp_path / "y.jsonl"):
                pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".x.cai-lock").touch()
    with pytest.raises(ZeroDivisionError), locked_name(tmp_path / "x"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is opened before the holder removes it, and locked after that: another try is needed."""
    flock, removed = locks.fcntl.flock, []

    def late(handle: int, operation: int) -> None:
        if not removed:
            removed.append(handle)
            (tmp_path / ".x.cai-lock").unlink()
        flock(handle, operation)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    with locked_name(tmp_path / "x"):
        assert (tmp_path / ".x.cai-lock").exists()
        with pytest.raises(StoreError), locked_name(tmp_path / "x"):
            pass


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    with (
        pytest.raises(StoreError, match="cannot be locked: Function not implemented"),
        locked_name(tmp_path / "x"),
    ):
        pass


def test_a_failed_command_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "x"):
        raise ZeroDivisionError
    assert list((tmp_path / "a").iterdir()) == []


def test_a_complete_folder_loses_the_mark_that_a_kill_left(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("a", ".cai-partial"):
        (tmp_path / "x" / name).touch()
    with pytest.raises(StoreError, match="x: exists already"), new_folder(tmp_path / "x"):
        pass
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["a"]


def test_a_complete_folder_loses_the_states_that_a_kill_left(tmp_path: Path) -> None:
    """Those of a folder without the mark are its owner's."""
    for name in ("killed", "users"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "state").touch()
    (tmp_path / "killed" / ".cai-partial").touch()
    for name in ("killed", "users"):
        with pytest.raises(StoreError, match="exists already"), new_folder(tmp_path / name):
            pass
    assert list((tmp_path / "killed").iterdir()) == []
    assert (tmp_path / "users" / "checkpoints" / "state").exists()


WORK = {"--model": "m", "--seed": "0"}


def begin(path: Path, *, saves: bool) -> None:
    """A training that fails, before or after it has saved a state."""
    with new_folder(path, WORK):
        if saves:
            (partial_path(path) / "checkpoints" / "step-1").mkdir()
        raise ZeroDivisionError


def test_the_states_of_a_training_are_kept_for_the_same_work(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        begin(tmp_path / "x", saves=False)
    assert list(tmp_path.iterdir()) == [], "nothing was saved, and nothing stays"
    with pytest.raises(ZeroDivisionError):
        begin(tmp_path / "x", saves=True)
    other = WORK | {"--seed": "1"}
    with (
        pytest.raises(
            StoreError, match=r"x\.partial: holds an unfinished .* another --seed: go on"
        ),
        new_folder(tmp_path / "x", other),
    ):
        pass
    with new_folder(tmp_path / "x", WORK):
        assert (tmp_path / "x.partial" / "checkpoints" / "step-1").exists()
    (tmp_path / "x.partial" / "checkpoints" / "work.json").write_text("[")
    with (
        pytest.raises(StoreError, match="another --model, --seed: go on"),
        new_folder(tmp_path / "x", WORK),
    ):
        pass
    with new_folder(tmp_path / "x"):
        assert not (tmp_path / "x.partial" / "checkpoints").exists(), "other commands begin anew"


@pytest.mark.parametrize("call", range(4))
def test_a_kill_in_the_removal_leaves_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Else the next command would take what is left for a user's folder."""
    partial = open_partial(tmp_path / "x")
    for name in ("a", "b"):
        (partial / name).mkdir()
        (partial / f"{name}.txt").touch()
    step, unlink = killed_at(call, lambda: None), Path.unlink

    def rmtree(path: Path) -> None:
        step()
        os.rmdir(path)

    def killed_unlink(path: Path, missing_ok: bool = False) -> None:
        step()
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        patch.setattr(Path, "unlink", killed_unlink)
        with pytest.raises(Killed):
            remove_partial(tmp_path / "x")
    remove_partial(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []

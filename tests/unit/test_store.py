"""The store: torn lines, full disks, foreign manifests, two processes in one folder."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interruptions import Killed, killed_at

from cai.errors import StoreError
from cai.records import Prompt, Score, chat_of
from cai.store import (
    append_rows,
    atomic_directory,
    atomic_write,
    begin_artifact,
    digest,
    file_digest,
    finish_artifact,
    json_lines,
    locked,
    manifest_path,
    open_partial,
    read_manifest,
    read_rows,
    remove_partial,
    truncate_torn_line,
)

PROMPTS = [Prompt(chat=chat_of(("user", f"question {i}"))) for i in range(20)]


def prompts_file(folder: Path, count: int = 3) -> Path:
    path = folder / "rows.jsonl"
    append_rows(path, PROMPTS[:count])
    return path


# Reading


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'"a"', "expected a JSON object, found str"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
    ids=["torn", "array", "text", "null", "latin-1", "huge number", "deep"],
)
def test_bad_lines_are_named(tmp_path: Path, line: bytes, reason: str) -> None:
    """The third line is bad: the error has its number, the file and the reason in one line.

    The two lines before it are read.
    """
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\r\n{"a": "\xc3\xa9\xe2\x80\xa8"}\n' + line + b"\n")
    objects = []
    with pytest.raises(StoreError, match=rf"in\.jsonl:3: {reason}") as caught:
        objects.extend(json_lines(path))
    assert "\n" not in str(caught.value)
    rows = json_lines(path)
    assert [next(rows), next(rows)] == [(1, {"a": 1}), (2, {"a": "é\u2028"})]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.jsonl: cannot read: No such file"):
        list(json_lines(tmp_path / "none.jsonl"))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}\n{')))
    with pytest.raises(StoreError, match=r"^-:2: not JSON"):
        list(json_lines(Path("-")))


def test_a_wrong_row_is_named(tmp_path: Path) -> None:
    path = prompts_file(tmp_path)
    append_rows(
        path,
        [
            Score(
                metric="m",
                subject="s",
                mean=None,
                stderr=None,
                ci_low=None,
                ci_high=None,
                n=0,
                unscored=0,
            )
        ],
    )
    with pytest.raises(StoreError, match=r"rows\.jsonl:4: chat: Field required"):
        list(read_rows(path, Prompt))


# Truncating and appending


def test_truncate_torn_line(tmp_path: Path) -> None:
    path = prompts_file(tmp_path)
    complete = path.read_bytes()
    path.write_bytes(complete + PROMPTS[3].line().encode()[:-5])
    truncate_torn_line(path)
    assert path.read_bytes() == complete
    truncate_torn_line(path)
    assert path.read_bytes() == complete


@given(st.binary(max_size=40), st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")))
def test_truncation_keeps_complete_lines_only(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / "f"
    complete = text + b"\n" if text else b""
    path.write_bytes(complete + torn)
    truncate_torn_line(path)
    assert path.read_bytes() == complete


def test_truncation_of_a_torn_line_longer_than_a_block(tmp_path: Path) -> None:
    """200,000 bytes after the last newline, which is searched for in blocks of 65,536."""
    path = tmp_path / "f"
    path.write_bytes(b"a\nb\n" + b"x" * 200_000)
    truncate_torn_line(path)
    assert path.read_bytes() == b"a\nb\n"


@pytest.mark.parametrize("data", [b"", b"no newline at all"])
def test_truncation_of_a_file_without_a_complete_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    truncate_torn_line(path)
    assert path.read_bytes() == b""


def test_truncation_without_a_file(tmp_path: Path) -> None:
    truncate_torn_line(tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EIO, "cannot write"),
    ],
)
def test_append_undoes_a_partial_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, message: str
) -> None:
    """The disk is full after half of the bytes: the file is as before, and can be appended to."""
    path = prompts_file(tmp_path)
    before = path.read_bytes()
    real = os.write

    def full(handle: int, data: bytes) -> int:
        real(handle, data[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match=rf"rows\.jsonl: {message}"):
            append_rows(path, PROMPTS[3:6])
    assert path.read_bytes() == before
    append_rows(path, PROMPTS[3:6])
    assert list(read_rows(path, Prompt)) == PROMPTS[:6]


def test_append_survives_short_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel may take fewer bytes than offered; the rest follows."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    path = prompts_file(tmp_path, 20)
    monkeypatch.undo()
    assert list(read_rows(path, Prompt)) == PROMPTS


# Atomic writes


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_atomic_write_is_complete_or_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    path = tmp_path / "m.json"
    atomic_write(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StoreError, match=r"m\.json: the disk is full"):
            atomic_write(path, "new")
        with pytest.raises(StoreError, match=r"n\.json: the disk is full"):
            atomic_write(tmp_path / "n.json", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("m.json", "old")]
    atomic_write(path, "new")
    assert path.read_text() == "new"


def test_atomic_write_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"f: cannot write: No such file"):
        atomic_write(tmp_path / "nowhere" / "f", "x")


def test_atomic_directory(tmp_path: Path) -> None:
    """A failure leaves the folder as it was, and a partial one; success replaces it by a rename."""
    target = tmp_path / "20-sft"
    with atomic_directory(target) as partial:
        (partial / "weights").write_text("1")
        assert not target.exists()

    def save(folder: Path) -> None:
        (folder / "weights").write_text("2")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), atomic_directory(target) as partial:
        save(partial)
    assert (target / "weights").read_text() == "1"
    assert (tmp_path / "20-sft.partial" / "weights").read_text() == "2"
    with atomic_directory(target) as partial:
        (partial / "weights").write_text("3")
    assert [(p.name, (p / "weights").read_text()) for p in tmp_path.iterdir()] == [("20-sft", "3")]


@pytest.mark.parametrize("target", ["victim", "missing"])
def test_a_planted_link_is_not_followed(tmp_path: Path, target: str) -> None:
    """Under every name that is used on the way: the victim stays, and the write succeeds."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("out.json.partial", ".out.json.cai-partial"):
        (tmp_path / name).symlink_to(tmp_path / target)
    atomic_write(tmp_path / "out.json", "ours")
    assert (tmp_path / "out.json").read_text() == "ours"
    assert victim.read_text() == "mine"
    assert not (tmp_path / "missing").exists()
    assert (tmp_path / "out.json.partial").is_symlink(), "not ours, so not removed"
    (tmp_path / ".lock").symlink_to(victim)
    with pytest.raises(StoreError, match="cannot write"), locked(tmp_path):
        pass
    assert victim.read_text() == "mine"


def test_a_users_partial_folder_is_neither_filled_nor_removed(tmp_path: Path) -> None:
    """Nor a link, nor a file of that name; an empty folder is taken."""
    partial = tmp_path / "x.partial"

    def refused() -> None:
        with (
            pytest.raises(StoreError, match=r"x\.partial: .* cai did not make: rename that, or"),
            atomic_directory(tmp_path / "x"),
        ):
            pass
        remove_partial(tmp_path / "x")

    partial.mkdir()
    (partial / "thesis").write_text("mine")
    refused()
    assert (partial / "thesis").read_text() == "mine"
    (partial / "thesis").rename(tmp_path / "thesis")
    partial.rmdir()
    partial.write_text("mine")
    refused()
    assert partial.read_text() == "mine"
    partial.unlink()
    (tmp_path / "elsewhere").mkdir()
    partial.symlink_to(tmp_path / "elsewhere")
    refused()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    partial.unlink()
    partial.mkdir()
    with atomic_directory(tmp_path / "x") as folder:
        (folder / "a").touch()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a"]


def test_the_states_of_a_training_outlive_a_kill_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        with atomic_directory(tmp_path / "x") as folder:
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / "state").touch()
            (folder / "weights").touch()

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed_at(0, os.replace))
        with pytest.raises(Killed):
            fill()
    assert (tmp_path / "x.partial" / "checkpoints" / "state").exists()
    fill()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["weights"]


def test_a_killed_commands_partial_folder_is_resumed_and_removed(tmp_path: Path) -> None:
    """Also one that an earlier version left in a run's folder: its manifest says whose it is."""
    open_partial(tmp_path / "x").joinpath("a").touch()
    assert open_partial(tmp_path / "x").joinpath("a").exists()
    remove_partial(tmp_path / "x")
    assert not (tmp_path / "x.partial").exists()
    begin_artifact(tmp_path / "60-policy", "ppo", {"seed": "0"})
    (tmp_path / "60-policy.partial").mkdir()
    (tmp_path / "60-policy.partial" / "checkpoints").mkdir()
    assert (open_partial(tmp_path / "60-policy") / "checkpoints").exists()


def test_half_a_surrogate_pair_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"a: cannot write: the text holds half a surrogate pair"):
        atomic_write(tmp_path / "a", "\ud800")
    assert list(tmp_path.iterdir()) == []


# Manifests


def test_begin_and_finish(tmp_path: Path) -> None:
    artefact = tmp_path / "10-revisions.jsonl"
    provenance = {"config": "c", "seed": "0"}
    assert begin_artifact(artefact, "revise", provenance) is None
    assert manifest_path(artefact) == tmp_path / "10-revisions.manifest.json"
    assert begin_artifact(artefact, "revise", provenance) is None, "not finished"
    artefact.touch()
    finish_artifact(artefact, rows=3, note=None)
    manifest = begin_artifact(artefact, "revise", provenance)
    assert manifest is not None
    assert manifest.finished
    assert manifest.counts == {"rows": 3, "note": None}
    artefact.unlink()
    assert begin_artifact(artefact, "revise", provenance) is None, (
        "the artefact of the manifest is missing"
    )


@pytest.mark.parametrize("done", [False, True])
def test_begin_names_every_key_that_differs(tmp_path: Path, done: bool) -> None:
    artefact = tmp_path / "10-revisions.jsonl"
    begin_artifact(artefact, "revise", {"config": "c", "model": "m", "seed": "0"})
    artefact.touch()
    if done:
        finish_artifact(artefact)
    before = manifest_path(artefact).read_bytes()
    with pytest.raises(
        StoreError, match=r"10-revisions\.jsonl: made with another input, model, seed: "
    ):
        begin_artifact(artefact, "revise", {"config": "c", "seed": "1", "input": "i"})
    assert manifest_path(artefact).read_bytes() == before


@pytest.mark.parametrize(
    ("artefact", "named"),
    [
        ("mo.items.jsonl", "mo.items.jsonl, mo.items.manifest.json"),
        (
            "10-revisions.jsonl",
            "10-revisions.jsonl, 10-revisions.manifest.json, 10-revisions.kept.jsonl, "
            "30-pairs.jsonl, 60-policy.partial",
        ),
    ],
)
def test_advice_names_files_of_ours_only(tmp_path: Path, artefact: str, named: str) -> None:
    """No pattern that other files match; of a run, whatever follows from the artefact."""
    for name in ("models", "movies", "10-notes", "60-policy.partial"):
        (tmp_path / name).mkdir()
    for name in ("mo.txt", "10-revisions.txt", "00-prompts.jsonl", "30-pairs.jsonl", "99.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "10-revisions.kept.jsonl").touch()
    begin_artifact(tmp_path / artefact, "s", {"seed": "0"})
    (tmp_path / artefact).touch()
    with pytest.raises(StoreError) as caught:
        begin_artifact(tmp_path / artefact, "s", {"seed": "1"})
    assert str(caught.value).endswith(f"to make it anew delete, in {tmp_path}: {named}")


def test_foreign_manifest(tmp_path: Path) -> None:
    artefact = tmp_path / "20-sft"
    for data in (b"{}", b"not json", b"\xff"):
        manifest_path(artefact).write_bytes(data)
        with pytest.raises(StoreError, match=r"20-sft\.manifest\.json: not a manifest"):
            read_manifest(artefact)


def test_finish_without_begin(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no manifest"):
        finish_artifact(tmp_path / "x.jsonl")


def test_digests(tmp_path: Path) -> None:
    """A digest depends on the boundaries of its parts.

    That of a folder depends on the names, sizes and bytes of its files, not on its path.
    """
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("é") == digest("é".encode())
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "f").write_text("x")
    assert file_digest(tmp_path / "one") == file_digest(tmp_path / "two")
    (tmp_path / "two" / "deep" / "f").rename(tmp_path / "two" / "f")
    assert file_digest(tmp_path / "one") != file_digest(tmp_path / "two")
    (tmp_path / "one" / "deep" / "f").write_text("y")
    assert file_digest(tmp_path / "one" / "deep" / "f") != file_digest(tmp_path / "two" / "f")


# The lock


def test_a_folder_has_one_holder(tmp_path: Path) -> None:
    """The error of a second process names the holder; a kill -9 of the holder frees the folder."""
    script = "import sys, time; from pathlib import Path; from cai.store import locked\n"
    script += "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):  # a refusal must not overwrite the holder's id
            with (
                pytest.raises(StoreError, match=rf"run: in use by process {holder.pid};"),
                locked(tmp_path / "run"),
            ):
                pass
        holder.kill()
        holder.wait()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())
        with pytest.raises(StoreError, match=f"process {os.getpid()}"), locked(tmp_path / "run"):
            pass
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("pwrite", errno.ENOSPC, r"\.lock: the disk is full"),
        ("open", errno.ENOSPC, "the disk is full"),
        ("open", errno.EACCES, "cannot write: Permission denied"),
    ],
)
def test_a_lock_on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, code: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreError, match=message), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass

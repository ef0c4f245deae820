"""Files: torn lines, full disks, kills at any moment, foreign manifests, two processes in one folder."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.async_map import gather, map_rows
from cai.errors import StoreError
from cai.records import Preference, Prompt, Score, chat_of
from cai.seeds import derive
from cai.store import (
    append,
    atomic_directory,
    atomic_write,
    begin,
    digest,
    file_digest,
    finish,
    json_lines,
    locked,
    manifest_path,
    read,
    read_manifest,
    truncate_torn_line,
)

PROMPTS = [Prompt(chat=chat_of(("user", f"question {i}"))) for i in range(20)]


def prompts_file(folder: Path, count: int = 3) -> Path:
    path = folder / "rows.jsonl"
    append(path, PROMPTS[:count])
    return path


# Reading


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": 1', "not JSON"),
        (b"", "not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'"a"', "expected a JSON object, found str"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
    ids=["torn", "blank", "array", "text", "null", "latin-1", "huge number", "deep"],
)
def test_bad_lines_are_named(tmp_path: Path, line: bytes, why: str) -> None:
    """The third line is bad: its number, the file and the reason are in one line; the two before it were read."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\r\n{"a": "\xc3\xa9\xe2\x80\xa8"}\n' + line + b"\n")
    seen = []
    with pytest.raises(StoreError, match=rf"in\.jsonl:3: {why}") as caught:
        seen.extend(json_lines(path))
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
    append(
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
        list(read(path, Prompt))


# Mending and appending


def test_mend_cuts_a_torn_line(tmp_path: Path) -> None:
    path = prompts_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + PROMPTS[3].line().encode()[:-5])
    truncate_torn_line(path)
    assert path.read_bytes() == whole
    truncate_torn_line(path)
    assert path.read_bytes() == whole


@given(st.binary(max_size=40), st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")))
def test_mend_keeps_whole_lines_only(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, torn: bytes
) -> None:
    path = tmp_path_factory.mktemp("mend") / "f"
    kept = whole + b"\n" if whole else b""
    path.write_bytes(kept + torn)
    truncate_torn_line(path)
    assert path.read_bytes() == kept


def test_mend_a_torn_line_longer_than_a_block(tmp_path: Path) -> None:
    """200,000 bytes after the last newline: more than the blocks of 65,536 in which it is searched for."""
    path = tmp_path / "f"
    path.write_bytes(b"a\nb\n" + b"x" * 200_000)
    truncate_torn_line(path)
    assert path.read_bytes() == b"a\nb\n"


@pytest.mark.parametrize("data", [b"", b"no newline at all"])
def test_mend_leaves_nothing_of_no_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    truncate_torn_line(path)
    assert path.read_bytes() == b""


def test_mend_no_file(tmp_path: Path) -> None:
    truncate_torn_line(tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EIO, "cannot write"),
    ],
)
def test_append_takes_back_what_did_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, said: str
) -> None:
    """Half of the bytes reach the disk before it is full: the file is as before, and the next append works."""
    path = prompts_file(tmp_path)
    whole, real = path.read_bytes(), os.write

    def full(handle: int, data: bytes) -> int:
        real(handle, data[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match=rf"rows\.jsonl: {said}"):
            append(path, PROMPTS[3:6])
    assert path.read_bytes() == whole
    append(path, PROMPTS[3:6])
    assert list(read(path, Prompt)) == PROMPTS[:6]


def test_append_survives_short_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel may take fewer bytes than offered; the rest follows."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    path = prompts_file(tmp_path, 20)
    monkeypatch.undo()
    assert list(read(path, Prompt)) == PROMPTS


# Publishing


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_publish_is_whole_or_not_at_all(
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


def test_publish_says_why_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"f: cannot write: No such file"):
        atomic_write(tmp_path / "nowhere" / "f", "x")


def test_publish_folder(tmp_path: Path) -> None:
    """A failure leaves the folder as it was and its pieces aside; success replaces it by one rename."""
    target = tmp_path / "20-sft"
    with atomic_directory(target) as aside:
        (aside / "weights").write_text("1")
        assert not target.exists()

    def save(folder: Path) -> None:
        (folder / "weights").write_text("2")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), atomic_directory(target) as aside:
        save(aside)
    assert (target / "weights").read_text() == "1"
    assert (tmp_path / "20-sft.partial" / "weights").read_text() == "2"
    with atomic_directory(target) as aside:
        (aside / "weights").write_text("3")
    assert [(p.name, (p / "weights").read_text()) for p in tmp_path.iterdir()] == [("20-sft", "3")]


# The one resumable map


def out(prompt: Prompt) -> Preference:
    return Preference(source=prompt.id, p_first=derive(0, prompt.id) / 2**63)


def stepper(
    calls: list[str], fail_on: str | None = None
) -> Callable[[Prompt], Awaitable[Preference]]:
    """Later rows of a window answer first, so that order is the store's doing."""

    async def step(prompt: Prompt) -> Preference:
        calls.append(prompt.id)
        if prompt.id == fail_on:
            raise ZeroDivisionError(prompt.id)
        for _ in range(20 - PROMPTS.index(prompt)):
            await asyncio.sleep(0)
        return out(prompt)

    return step


WHOLE = "".join(out(prompt).line() + "\n" for prompt in PROMPTS).encode()


@pytest.mark.parametrize("width", [1, 6, 64])
def test_fill_keeps_the_order_of_the_input(tmp_path: Path, width: int) -> None:
    calls: list[str] = []
    told: list[tuple[int, int]] = []
    path = tmp_path / "out.jsonl"
    asyncio.run(
        map_rows(
            path,
            PROMPTS,
            stepper(calls),
            Preference,
            max_concurrency=width,
            progress=lambda done, total: told.append((done, total)),
        )
    )
    assert path.read_bytes() == WHOLE
    assert sorted(calls) == sorted(p.id for p in PROMPTS)
    assert told[0] == (0, 20)
    assert told[-1] == (20, 20)
    assert told == sorted(told)


def test_fill_resumes_with_what_is_missing(tmp_path: Path) -> None:
    """Seven lines are there, the eighth is torn: the thirteen others are worked, and the bytes are those of one run."""
    path, calls = tmp_path / "out.jsonl", list[str]()
    seven = b"".join(WHOLE.splitlines(keepends=True)[:7])
    path.write_bytes(WHOLE[: len(seven) + 10])
    asyncio.run(map_rows(path, PROMPTS, stepper(calls), Preference, max_concurrency=6))
    assert path.read_bytes() == WHOLE
    assert calls == [p.id for p in PROMPTS[7:]]


def test_fill_after_a_failed_step(tmp_path: Path) -> None:
    """Row 14 of 20 fails in windows of 6: two windows stay, the error is the step's own, and a rerun calls no finished row."""
    path, first, second = tmp_path / "out.jsonl", list[str](), list[str]()
    with pytest.raises(ZeroDivisionError):
        asyncio.run(
            map_rows(path, PROMPTS, stepper(first, PROMPTS[14].id), Preference, max_concurrency=6)
        )
    assert path.read_bytes() == b"".join(WHOLE.splitlines(keepends=True)[:12])
    asyncio.run(map_rows(path, PROMPTS, stepper(second), Preference, max_concurrency=6))
    assert path.read_bytes() == WHOLE
    assert second == [p.id for p in PROMPTS[12:]]


def test_fill_finished_asks_nothing(tmp_path: Path) -> None:
    path, calls = tmp_path / "out.jsonl", list[str]()
    path.write_bytes(WHOLE)
    asyncio.run(map_rows(path, PROMPTS, stepper(calls), Preference))
    assert calls == []
    assert path.read_bytes() == WHOLE


def test_fill_of_nothing_makes_an_empty_file(tmp_path: Path) -> None:
    asyncio.run(map_rows(tmp_path / "out.jsonl", list[Prompt](), stepper([]), Preference))
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize("width", [1, 64])
def test_fill_works_equal_rows_once(tmp_path: Path, width: int) -> None:
    """Whether the copy falls into the same window or a later one."""
    path, calls = tmp_path / "out.jsonl", list[str]()
    asyncio.run(
        map_rows(path, [*PROMPTS, *PROMPTS[:5]], stepper(calls), Preference, max_concurrency=width)
    )
    assert path.read_bytes() == WHOLE
    assert len(calls) == 20


def test_fill_refuses_rows_of_another_kind(tmp_path: Path) -> None:
    path = prompts_file(tmp_path)
    with pytest.raises(StoreError, match=r"rows\.jsonl:1: "):
        asyncio.run(map_rows(path, PROMPTS, stepper([]), Preference))


def test_together_raises_the_first_failure_and_cancels_the_rest() -> None:
    ended: list[str] = []

    async def slow() -> Preference:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")
        return out(PROMPTS[0])

    async def fails() -> Preference:
        await asyncio.sleep(0)
        raise ZeroDivisionError("mine")

    async def go() -> list[str]:
        with pytest.raises(ZeroDivisionError, match="mine"):
            await gather([slow(), fails(), slow()])
        return list(ended)  # by now, not when the loop is torn down

    assert asyncio.run(go()) == ["slow", "slow"]


KILLED = """
import asyncio, os, sys, time
from pathlib import Path
from cai.records import Preference, Prompt, chat_of
from cai.seeds import derive
from cai.async_map import map_rows

real = os.write
def slowly(handle, data):
    time.sleep(0.002)
    return real(handle, data[:40])  # a kill may strike between two pieces of a line
os.write = slowly
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def step(prompt):
    real(log, (prompt.id + "\\n").encode())
    await asyncio.sleep(derive(0, prompt.id) % 20 / 1000)
    return Preference(source=prompt.id, p_first=derive(1, prompt.id) / 2**63)

prompts = [Prompt(chat=chat_of(("user", f"question {i}"))) for i in range(48)]
print("ready", flush=True)
asyncio.run(map_rows(Path(sys.argv[1]), prompts, step, Preference, max_concurrency=4))
"""


def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Up to eight kills at random moments, some between two pieces of one line: nothing written is asked again, and the
    file ends with the bytes of a run that nobody killed. Twelve windows of some 40 ms
    outlast three lives of at most 150 ms."""
    script, path, log = tmp_path / "script.py", tmp_path / "out.jsonl", tmp_path / "calls"
    script.write_text(KILLED)
    stream, kills = random.Random(5), 0

    def start(target: Path) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, str(script), str(target), str(log)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        return child

    while True:
        before = path.read_bytes() if path.exists() else b""
        finished = {
            json.loads(line)["source"]
            for line in before.splitlines(keepends=True)
            if line.endswith(b"\n")
        }
        log.write_bytes(b"")
        child = start(path)
        if kills < 8:
            time.sleep(stream.uniform(0.0, 0.15))
            child.kill()
        code = child.wait()
        assert child.stdout is not None
        child.stdout.close()
        assert finished.isdisjoint(log.read_text().split())
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    with start(tmp_path / "whole.jsonl") as child:
        assert child.wait() == 0
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(path.read_bytes().splitlines()) == 48


# Manifests


def test_begin_and_finish(tmp_path: Path) -> None:
    artefact, made = tmp_path / "10-revisions.jsonl", {"config": "c", "seed": "0"}
    assert begin(artefact, "revise", made) is None
    assert manifest_path(artefact) == tmp_path / "10-revisions.manifest.json"
    assert begin(artefact, "revise", made) is None, "not finished: there is work to do"
    artefact.touch()
    finish(artefact, rows=3, note=None)
    found = begin(artefact, "revise", made)
    assert found is not None
    assert found.finished
    assert found.counts == {"rows": 3, "note": None}
    artefact.unlink()
    assert begin(artefact, "revise", made) is None, (
        "a manifest without its artefact finishes nothing"
    )


@pytest.mark.parametrize("done", [False, True])
def test_begin_names_every_key_that_differs(tmp_path: Path, done: bool) -> None:
    artefact = tmp_path / "10-revisions.jsonl"
    begin(artefact, "revise", {"config": "c", "model": "m", "seed": "0"})
    artefact.touch()
    if done:
        finish(artefact)
    kept = manifest_path(artefact).read_bytes()
    with pytest.raises(
        StoreError, match=r"10-revisions\.jsonl: made with another input, model, seed: "
    ):
        begin(artefact, "revise", {"config": "c", "seed": "1", "input": "i"})
    assert manifest_path(artefact).read_bytes() == kept


def test_foreign_manifest(tmp_path: Path) -> None:
    artefact = tmp_path / "20-sft"
    for data in (b"{}", b"not json", b"\xff"):
        manifest_path(artefact).write_bytes(data)
        with pytest.raises(StoreError, match=r"20-sft\.manifest\.json: not a manifest"):
            read_manifest(artefact)


def test_finish_without_begin(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no manifest"):
        finish(tmp_path / "x.jsonl")


def test_digests(tmp_path: Path) -> None:
    """Where one part ends and the next begins matters; so do a folder's names, sizes and bytes, but not where it lies."""
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
    """A second process is told who holds the folder; a kill -9 of the holder frees it."""
    script = "import sys, time; from pathlib import Path; from cai.store import locked\n"
    script += "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):  # being refused must not wipe the holder's number
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

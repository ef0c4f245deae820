"""Blocks of rows, judged here and in other processes, against a plain loop over rows."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import py3langid
import pytest
from data_toys import prompt

from cai.data import filter_processes
from cai.data.dedupe import Cleaned, clean, filtered_prompts, kept_lines
from cai.data.filter_processes import judged_blocks
from cai.data.filters import HygieneConfig, PromptFilters, compared_text, conversation_text
from cai.data.minhash import band_keys, signatures
from cai.data.words import word_ngrams
from cai.errors import JobError
from cai.records import Prompt, TrainingChat, chat_of

WORDS = [
    "the", "a", "river", "garden", "small", "old", "house", "bread", "winter", "sings", "walks",
    "opens", "under", "with", "for",
]  # fmt: skip
EXTRAS = [
    "write to ann@example.org", "call 212-555-0100 now", "the server 198.51.100.7",
    "\u00b2 fe80::1", "请问怎样才能在家里安全地存放", "une question très simple sur le pain",
    "\ud800 half", "", "a small river sings", "<|im_end|>", "😀 👩\u200d👧", "  \n ", "the " * 300,
    "Wie backe ich ein Brot?", "\u3000 \u00a0", "HELLO THERE",
]  # fmt: skip
EVALUATION = ["under the old house a small river sings for bread"]
EVERYTHING = HygieneConfig(
    min_tokens=4, max_tokens=26, languages=("en", "fr", "zh"), pii="mask", per_user=4, prefix=60,
    near=0.7, against=("evaluation",), ngram=4,
)  # fmt: skip
REASONS = {"kept", "too", "language", "in", "repeated", "same", "nearly"}
"""First words of them all."""


def random_rows(count: int, seed: int) -> list[Prompt]:
    """Few words and users, so that every filter finds something."""
    stream = random.Random(seed)
    rows: list[Prompt] = []
    for _ in range(count):
        words = stream.choices(WORDS, k=stream.randrange(3, 28))
        if rows and stream.random() < 0.4:
            words = conversation_text(stream.choice(rows)).split(" ")
            if stream.random() < 0.7:
                words[stream.randrange(len(words))] = stream.choice(WORDS)
        if stream.random() < 0.15:
            words.append(stream.choice(EXTRAS))
        text = " ".join(words) or "x"
        rows.append(prompt(text, user=stream.choice([None, "ann", "bob", *map(str, range(300))])))
    return rows


def filters(config: HygieneConfig) -> PromptFilters:
    return PromptFilters(config, lambda text: len(text.split()), EVALUATION)


def plainly_judged(row: Prompt, rules: PromptFilters, evaluation: set[str]) -> str | None:
    """The reason against one row, without the filter on personal data."""
    config, text = rules.config, conversation_text(row)
    length = rules.count_tokens(text)
    if config.min_tokens is not None and length < config.min_tokens:
        return "too short"
    if config.max_tokens is not None and length > config.max_tokens:
        return "too long"
    if config.languages and (code := py3langid.classify(text)[0]) not in config.languages:
        return f"language {code}"
    is_known = not evaluation.isdisjoint(set(word_ngrams(text, config.ngram)) - {""})
    return "in an evaluation" if is_known else None


def plainly_cleaned(rows: Sequence[Prompt], rules: PromptFilters) -> list[tuple[str, int]]:
    """(reason, row that is repeated or -1) by loops over rows, one filter after the other."""
    evaluation = {run for text in EVALUATION for run in word_ngrams(text, rules.config.ngram)}
    reasons = [plainly_judged(row, rules, evaluation) for row in rows]
    judged = [
        (row, reason) if reason else rules.without_personal_data(row)
        for row, reason in zip(rows, reasons, strict=True)
    ]
    assert judged == [rules.judge(row) for row in rows]
    outcomes = [(reason or "", -1) for _, reason in judged]
    config = rules.config

    def drop_repeats(keys: list[str | None], reason: str, limit: int) -> None:
        seen: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            if outcomes[index][0] or key is None:
                continue
            seen.setdefault(key, []).append(index)
            if len(seen[key]) > limit:
                outcomes[index] = (reason, seen[key][0])

    texts = [compared_text(row) for row, _ in judged]
    drop_repeats([conversation_text(row) for row, _ in judged], "repeated", 1)
    if config.prefix is not None:
        size = config.prefix
        drop_repeats([t[:size] if len(t) >= size else None for t in texts], "same beginning", 1)
    if config.per_user is not None:
        drop_repeats([row.user or None for row in rows], "too many of a user", config.per_user)
    if config.near is not None:
        drop_near_duplicates(texts, outcomes, config.near)
    return outcomes


def drop_near_duplicates(
    texts: list[str], outcomes: list[tuple[str, int]], threshold: float
) -> None:
    matrix = signatures(texts)
    for keys in band_keys(matrix):
        groups: dict[int, list[int]] = {}
        for index, key in enumerate(keys.tolist()):
            if not outcomes[index][0]:
                groups.setdefault(key, []).append(index)
        for group in groups.values():
            for previous, index in pairwise(group):
                for other in (group[0], previous):
                    if float(np.mean(matrix[other] == matrix[index])) >= threshold:
                        outcomes[index] = ("nearly repeated", other)
                        break


def pairs(cleaned: Cleaned) -> list[tuple[str, int]]:
    reasons = [cleaned.reasons[code] for code in cleaned.codes]
    return list(zip(reasons, cleaned.duplicate_of.tolist(), strict=True))


@pytest.mark.parametrize(("seed", "block"), [(0, 7), (1, 150), (2, 150), (3, 1 << 10)])
def test_blocks_are_judged_as_a_plain_loop_would(
    monkeypatch: pytest.MonkeyPatch, seed: int, block: int
) -> None:
    """Blocks of seven are too small for steps in many texts at a time, the others are not."""
    monkeypatch.setattr(filter_processes, "BLOCK_ROWS", block)
    rows, rules = random_rows(700, seed), filters(EVERYTHING)
    cleaned = clean(lambda: iter(rows), EVERYTHING, rules)
    assert pairs(cleaned) == plainly_cleaned(rows, rules)
    assert {reason.split()[0] for reason in cleaned.counts} == REASONS
    kept = [rules.judge(row)[0] for row, code in zip(rows, cleaned.codes, strict=True) if not code]
    assert list(filtered_prompts(lambda: iter(rows), rules, cleaned)) == kept
    assert any("[EMAIL]" in conversation_text(row) for row in kept)


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two other processes from the second block of 40 rows on."""
    monkeypatch.setattr(filter_processes, "_cores", lambda: 3)
    monkeypatch.setattr(filter_processes, "FIRST_BLOCKS", 1)
    monkeypatch.setattr(filter_processes, "BLOCK_ROWS", 40)


def test_garbage_is_collected_as_before() -> None:
    """While rows are judged there is no full collection; afterwards there is."""
    states: list[bool] = []

    def rows() -> Iterator[Prompt]:
        for row in random_rows(20, 3):
            states.append(gc.isenabled())
            yield row
        raise JobError("enough")

    assert gc.isenabled()
    with pytest.raises(JobError, match="enough"):
        clean(rows, EVERYTHING, filters(EVERYTHING))
    assert states == [False] * 20
    assert gc.isenabled()


def equal(first: Cleaned, second: Cleaned) -> bool:
    return (
        first.reasons == second.reasons
        and first.counts == second.counts
        and np.array_equal(first.codes, second.codes)
        and np.array_equal(first.masked, second.masked)
        and np.array_equal(first.duplicate_of, second.duplicate_of)
    )


@pytest.mark.usefixtures("several")
def test_outcomes_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder with a file that is named as a module; one block fails in the other process."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    rows, rules = random_rows(2000, 5), filters(EVERYTHING)
    blocks = [block for block, _ in judged_blocks(rows, rules)]
    assert [row for block in blocks for row in block] == rows
    save_block = filter_processes.save_block
    saved: list[int] = []

    def save(folder: Path, number: int, block: list[Prompt], lengths: list[int | None]) -> None:
        saved.append(number)
        save_block(folder, number, block, [None] * 3 if len(saved) == 2 else lengths)

    monkeypatch.setattr(filter_processes, "save_block", save)
    here_and_there = clean(lambda: iter(rows), EVERYTHING, rules)
    assert len(saved) >= 6
    monkeypatch.setattr(filter_processes, "_cores", lambda: 1)
    assert equal(here_and_there, clean(lambda: iter(rows), EVERYTHING, rules))


@pytest.mark.usefixtures("several")
def test_training_chats_too(monkeypatch: pytest.MonkeyPatch) -> None:
    config = HygieneConfig(near=0.7)
    chats = [
        TrainingChat(chat=chat_of(("user", "Why?"), ("assistant", conversation_text(row))))
        for row in random_rows(600, 6)
    ]
    rules = filters(config)
    cleaned = clean(lambda: iter(chats), config, rules)
    monkeypatch.setattr(filter_processes, "_cores", lambda: 1)
    assert equal(cleaned, clean(lambda: iter(chats), config, rules))
    assert cleaned.counts["nearly repeated"] > 10


def started_processes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the processes that are started from now on."""
    ids: list[int] = []

    class Started(filter_processes._Process):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            ids.append(self._process.pid)

    monkeypatch.setattr(filter_processes, "_Process", Started)
    return ids


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("several")
def test_an_interruption_ends_the_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a group of their own: the terminal interrupts the reading process alone."""
    ids = started_processes(monkeypatch)
    groups: list[int] = []

    def interrupted() -> Iterator[Prompt]:
        yield from random_rows(400, 7)
        groups.extend(map(os.getpgid, ids))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clean(interrupted, EVERYTHING, filters(EVERYTHING))
    assert groups == ids
    assert len(ids) == 2
    assert not any(map(is_running, ids))


@pytest.mark.usefixtures("several")
def test_a_process_that_is_killed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = started_processes(monkeypatch)

    def killing() -> Iterator[Prompt]:
        for index, row in enumerate(random_rows(4000, 8)):
            if index == 200:
                os.kill(ids[0], signal.SIGKILL)
            yield row

    with pytest.raises(JobError, match=r"^filters: a process .* \(signal 9\): .*$"):
        clean(killing, EVERYTHING, filters(EVERYTHING))
    assert not any(map(is_running, ids))


@pytest.mark.usefixtures("several")
def test_a_process_that_cannot_begin_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_processes, "save_settings", lambda folder, rules: None)
    with pytest.raises(JobError, match=r"^filters: .*\(exit code 1: FileNotFoundError: .*$"):
        clean(lambda: iter(random_rows(4000, 8)), EVERYTHING, filters(EVERYTHING))


def test_processes_of_torchrun_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    counts = [filter_processes._Processes(filters(EVERYTHING)).count]
    for size in ("4", "16"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
        counts.append(filter_processes._Processes(filters(EVERYTHING)).count)
    assert counts == [7, 1, 0]


def test_a_filter_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("no such\ntable")

    monkeypatch.setattr(filter_processes, "judge_rows", fail)
    with pytest.raises(JobError) as raised:
        clean(lambda: iter([prompt("a"), prompt("b")]), EVERYTHING, filters(EVERYTHING))
    assert str(raised.value) == "filters, rows 1 to 2: ValueError: no such"


@pytest.mark.parametrize(
    ("count", "config"), [(60, EVERYTHING), (600, HygieneConfig(per_user=2, prefix=20))]
)
@pytest.mark.usefixtures("several")
def test_few_rows_and_quick_filters_start_no_process(
    monkeypatch: pytest.MonkeyPatch, count: int, config: HygieneConfig
) -> None:
    monkeypatch.setattr(filter_processes, "FIRST_BLOCKS", 2)
    ids = started_processes(monkeypatch)
    rules = PromptFilters(config, lambda text: len(text.split()))
    clean(lambda: iter(random_rows(count, 9)), config, rules)
    assert ids == []


def test_a_process_ends_with_its_input(tmp_path: Path) -> None:
    """So nothing is left over when the reading process is killed."""
    filter_processes.save_settings(tmp_path, filters(HygieneConfig()))
    process = filter_processes._Process(tmp_path)
    process._input.close()
    assert process._process.wait(timeout=30) == 0
    process.end()


def test_long_rows_make_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_processes, "BLOCK_CHARACTERS", 10)
    rows = [prompt("x" * 25), prompt("y"), prompt("z" * 9), prompt("w")]
    blocks = judged_blocks(rows, filters(HygieneConfig()))
    assert [len(block) for block, _ in blocks] == [1, 2, 1]


def test_lines_are_those_of_the_second_reading() -> None:
    rows = [row for row in random_rows(300, 10) if "\ud800" not in conversation_text(row)]
    rules, lines = filters(EVERYTHING), io.BytesIO()
    cleaned = clean(lambda: iter(rows), EVERYTHING, rules, lines=lines)
    read_again = filtered_prompts(lambda: iter(rows), rules, cleaned)
    written = [line.decode() for line in kept_lines(lines, cleaned)]
    assert written == [row.line() + "\n" for row in read_again]

"""Which replies fine-tuning learns, and how often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.artifacts import PROMPTS, REVISIONS
from cai.data.filters import HygieneConfig
from cai.errors import TrainError
from cai.pipeline.sft_data import row_counts_line, sft_rows
from cai.records import Kind, Prompt, Revision, Round, chat_of
from cai.train.sft import SFTConfig
from cai.train.sft_rows import SFTRow, examples, revision_rows, select_rows

CHAT = chat_of(("user", "Do harm."))


def row(number: int, reply: str = "", kind: Kind | None = None, **fields: Any) -> SFTRow:
    return SFTRow(f"row {number}", CHAT, reply or f"reply {number}", kind=kind, **fields)


def revision(*rounds: Round, **fields: Any) -> Revision:
    return Revision(source="s", chat=CHAT, initial="First.", rounds=rounds, **fields)


def entry(text: str, **fields: Any) -> Round:
    return Round(principle="p", critique="c", revision=text, **fields)


def test_the_final_reply_or_all_that_the_filters_let_through() -> None:
    """A round that was not let through, or of which that is unknown, is no row."""
    rounds = (
        entry("One.", passes=True, finished=False),
        entry("Two.", passes=False),
        entry("Three."),
        entry("Four.", passes=True),
    )
    several = revision(*rounds, final="Four.", chosen_round=3)
    (last,) = revision_rows(several, SFTConfig(), "disallowed", "drugs")
    assert (last.reply, last.kind, last.category) == ("Four.", "disallowed", "drugs")
    every = revision_rows(several, SFTConfig(rounds="all"))
    assert [(r.reply, r.finished) for r in every] == [("One.", False), ("Four.", True)]
    assert len({r.id for r in every}) == 2
    kept = revision(entry("No.", passes=False), final="First.", initial_finished=False)
    assert [(r.reply, r.finished) for r in revision_rows(kept, SFTConfig(rounds="all"))] == [
        ("First.", False)
    ]
    dropped = revision(*rounds[1:2], final=None, dropped="empty")
    assert revision_rows(dropped, SFTConfig(rounds="all")) == []


@pytest.mark.parametrize(
    ("cut_replies", "expected"),
    [
        ("end", [("a", True), ("b", True)]),
        ("open", [("a", True), ("b", False)]),
        ("drop", [("a", True)]),
    ],
)
def test_cut_replies(cut_replies: Any, expected: list[tuple[str, bool]]) -> None:
    config = SFTConfig(cut_replies=cut_replies)
    rows, counts = select_rows([row(0, "a"), row(1, "b", finished=False)], config, 0)
    assert [(e.reply, e.has_end) for e in examples(rows, config)] == expected
    assert counts == {"cut": 1}


def test_identical_replies_are_kept_k_times() -> None:
    """Five rows with one reply, in two spellings of its white space: two stay, which ones depends
    on the seed, and not on the order of the rows.
    """
    rows = [row(n, "I'm  sorry.\n" if n % 2 else "I'm sorry.") for n in range(5)]
    rows += [row(5, "Of course."), row(6, "i'm sorry.")]
    config = SFTConfig(max_repeats=2)
    kept = {}
    for seed in range(20):
        chosen, counts = select_rows(rows, config, seed)
        assert counts == {"same reply": 3}
        assert chosen == [r for r in rows if r in chosen], "in the order of the input"
        assert {"row 5", "row 6"} <= {r.id for r in chosen}
        reversed_rows, _ = select_rows(rows[::-1], config, seed)
        assert {r.id for r in reversed_rows} == {r.id for r in chosen}
        kept[seed] = [r.id for r in chosen if int(r.id[4:]) < 5]
    assert all(len(ids) == 2 for ids in kept.values())
    assert {id for ids in kept.values() for id in ids} == {f"row {n}" for n in range(5)}
    assert select_rows(rows, SFTConfig(), 0) == (rows, {})


def test_weights_repeat_rows_in_expectation() -> None:
    """Groups of 7 rows by 1.5 and 5 rows by 0.3; a category counts before its kind.

    7 * 0.5 = 3.5: three rows more, or four; 5 * 0.3 = 1.5: one row or two. Over 400 seeds each
    row's mean number of copies is its weight, within four standard deviations of a coin's mean,
    4 * sqrt(0.25 / 400) = 0.1.
    """
    rows = [row(n, kind="disallowed") for n in range(7)]
    rows += [row(n, kind="benign", category="borderline") for n in range(7, 12)]
    rows += [row(12, kind="benign", category="cooking"), row(13)]
    config = SFTConfig(weights={"disallowed": 1.5, "benign/borderline": 0.3, "benign": 2.0})
    total: Counter[str] = Counter()
    for seed in range(400):
        chosen, counts = select_rows(rows, config, seed)
        assert counts == {"before weights": 14}
        copies = Counter(r.id for r in chosen)
        total += copies
        assert 10 <= sum(copies[f"row {n}"] for n in range(7)) <= 11
        assert 1 <= sum(copies[f"row {n}"] for n in range(7, 12)) <= 2
        assert (copies["row 12"], copies["row 13"]) == (2, 1)
    for n in range(12):
        assert abs(total[f"row {n}"] / 400 - (1.5 if n < 7 else 0.3)) < 0.1
    first, _ = select_rows(rows, config, 1)
    assert select_rows(rows, config, 1)[0] == first
    assert select_rows(rows, SFTConfig(weights={"benign": 0}), 0)[0] == [*rows[:7], rows[13]]


def context(folder: Path, config: SFTConfig, kinds: list[Kind]) -> Any:
    """The parts of a run's context that are read, with one revision for each prompt."""
    prompts = [
        Prompt(chat=chat_of(("user", f"{kind} {n}")), kind=kind) for n, kind in enumerate(kinds)
    ]
    reply = "Sorry, ann@example.org."
    rows = [
        Revision(source=p.id, chat=p.chat, initial=reply, final=reply, initial_finished=n > 0)
        for n, p in enumerate(prompts)
    ]
    (folder / PROMPTS).write_text("".join(p.line() + "\n" for p in prompts))
    (folder / REVISIONS).write_text("".join(r.line() + "\n" for r in rows))
    run = SimpleNamespace(sft=config, hygiene=HygieneConfig(pii="mask"))
    resolved = SimpleNamespace(run=run, against=(), extra=())
    return SimpleNamespace(run=run, resolved=resolved, path=lambda name: folder / name, seed=0)


def test_the_rows_of_a_run(tmp_path: Path) -> None:
    """Masked, with the kinds of their prompts; a cut one, repeats and copies are counted."""
    config = SFTConfig(cut_replies="drop", max_repeats=2, weights={"benign": 3.0})
    ctx = context(tmp_path, config, ["disallowed", "benign", "benign", "benign"])
    rows, counts = sft_rows(ctx)
    assert {r.reply for r in rows} == {"Sorry, [EMAIL]."}
    assert counts == {"cut": 1, "same reply": 1, "before weights": 2}
    assert [r.kind for r in rows] == ["benign"] * 6
    line = "sft: 6 rows; left out: 1 cut, 1 same reply; 2 before weights"
    assert row_counts_line(6, counts, is_cut_kept=False) == line
    assert row_counts_line(3, {"cut": 1}, is_cut_kept=True) == "sft: 3 rows; 1 cut"


def test_groups_without_a_prompt_and_runs_without_a_row_are_one_line(tmp_path: Path) -> None:
    ctx = context(tmp_path, SFTConfig(weights={"sensitive": 2}), ["disallowed", "benign"])
    with pytest.raises(TrainError, match="no training prompt is sensitive, which sft"):
        sft_rows(ctx)
    ctx = context(tmp_path, SFTConfig(weights={"benign": 0}), ["benign", "benign"])
    with pytest.raises(TrainError, match="no row is left to learn from, of 2 revisions"):
        sft_rows(ctx)
    with pytest.raises(ValueError, match="weights"):
        SFTConfig.model_validate({"weights": {"bening": 2}})

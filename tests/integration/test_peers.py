"""Mistakes that others made in silence, one by one: a check that this project passes and a
re-creation of the mistake fails.

Each check takes the part in question as a function, so that the same lines judge ours and theirs.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cai.async_map import map_rows
from cai.constitution import Constitution, Principle
from cai.data.readers import dialogue_turns
from cai.data.split import split
from cai.errors import UnansweredError
from cai.generate.filters import not_degenerate
from cai.generate.label import LabelConfig, labeller
from cai.generate.pair import PairConfig, PairItem, pairer
from cai.generate.regression import regressed_principle
from cai.generate.revise import ReviseConfig, choose, reviser
from cai.lm import FakeLM
from cai.records import Chat, Pair, Preference, Prompt, PromptDraw, Round, chat_of
from cai.store import read_rows
from cai.templates import parse_reply, parse_verdict
from cai.train.ppo.reward_table import sum_rewards
from cai.train.ppo.rollout import RewardTable, Rollout

BOOK = Constitution(
    name="toy",
    version="1",
    principles=(
        Principle(
            id="kind",
            category="c",
            critique="Rude?",
            revision="Be kind.",
            compare="Which is kinder?",
        ),
    ),
)
ASKED = chat_of(("user", "Say it."))
Labeller = Callable[[FakeLM, Pair], float | None]
"""P(first beats second), or None."""


def pair(first: str, second: str) -> Pair:
    return Pair(source="p", chat=ASKED, first=first, second=second)


def ours(judge: FakeLM, what: Pair) -> float | None:
    return asyncio.run(
        labeller(BOOK, judge, LabelConfig(), 0, lambda pair: (None, None))(what)
    ).p_first


def shown(chat: Chat) -> tuple[str, str]:
    found = re.search(
        r"Reply \(A\):\n```\n(.*?)\n```\n\nReply \(B\):\n```\n(.*?)\n```",
        chat[-1].content,
        re.DOTALL,
    )
    assert found
    return found[1], found[2]


def planted(chat: Chat, choices: Sequence[str]) -> list[float]:
    """The good one by three nats, and two more for whatever is shown as (B)."""
    a, _ = shown(chat)
    return [1.0, 0.0] if a == "good" else [-5.0, 0.0]


def fails(check: Callable[..., None], *theirs: object) -> None:
    with pytest.raises(AssertionError):
        check(*theirs)


# ---- the verdict is never used: a guard that is never true, so that the first reply always wins
# ----


def uses_the_verdict(label: Labeller) -> None:
    stream = random.Random(0)
    for _ in range(20):
        first = stream.choice(["good", "bad"])
        p = label(
            FakeLM(lambda chat, seed: "", planted),
            pair(first, "bad" if first == "good" else "good"),
        )
        assert p is not None
        assert (p > 0.5) == (first == "good")


def test_a_verdict_that_is_shuffled_and_never_unshuffled() -> None:
    uses_the_verdict(ours)
    fails(uses_the_verdict, lambda judge, what: 1.0)


# ---- no verdict becomes a label: a pair by lot, a zero, a tie, or "A" ----


def knows_that_it_does_not_know(label: Labeller) -> None:
    for silent in (None, [math.nan, 0.0]):
        assert (
            label(
                FakeLM(lambda chat, seed: "", lambda chat, choices, said=silent: said),
                pair("good", "bad"),
            )
            is None
        )
    assert label(FakeLM(lambda chat, seed: "", planted), pair("same", "same")) is None, (
        "chosen and rejected are one text"
    )


@pytest.mark.parametrize("theirs", [0.0, 0.5, 1.0, random.Random(0).random()])
def test_no_verdict_that_becomes_a_label(theirs: float) -> None:
    knows_that_it_does_not_know(ours)
    fails(knows_that_it_does_not_know, lambda judge, what: theirs)


def reads_no_verdict_into_text(parse: Callable[[str], str | None]) -> None:
    assert parse("I cannot decide.") is None
    assert parse("") is None
    assert parse("The better reply is (B).") == "B"


def test_an_unreadable_verdict_that_is_an_a() -> None:
    reads_no_verdict_into_text(parse_verdict)
    fails(reads_no_verdict_into_text, lambda text: "B" if "(B)" in text else "A")


# ---- the two replies differ in temperature: a preference model learns to tell cold from hot ----


def draws_alike(draw: Callable[[FakeLM], Pair]) -> None:
    made = draw(FakeLM(lambda chat, seed: f"text {seed}"))
    assert made.sampled is not None
    first, second = made.sampled
    assert first.temperature == second.temperature
    assert first.seed != second.seed


def test_candidates_of_different_temperatures() -> None:
    def one(lm: FakeLM) -> Pair:
        return asyncio.run(
            pairer(lm, PairConfig(), 0)(PairItem(prompt=Prompt(chat=ASKED), places=(0, 1)))
        )

    def theirs(lm: FakeLM) -> Pair:
        made = one(lm)
        assert made.sampled is not None
        hot = made.sampled[1].model_copy(update={"temperature": 1.51})
        return made.model_copy(update={"sampled": (made.sampled[0], hot)})

    draws_alike(one)
    fails(draws_alike, theirs)


# ---- rows go missing: the last part of a batch, and every one that raised ----

Map = Callable[[Path, list[Pair], Callable[[Pair], object]], None]


def loses_no_row(work: Map, folder: Path) -> None:
    """Ten rows in windows of four, one of them without an answer: ten rows come out, in order, and
    that one says why.
    """
    rows = [pair(f"a{i}", f"b{i}") for i in range(10)]

    def odds(chat: Chat, choices: Sequence[str]) -> list[float]:
        if "a3" in shown(chat):
            raise UnansweredError("status 500")
        return [0.5, 0.0]

    out = folder / "out.jsonl"
    work(
        out,
        rows,
        labeller(
            BOOK, FakeLM(lambda chat, seed: "", odds), LabelConfig(), 0, lambda pair: (None, None)
        ),
    )
    found = list(read_rows(out, Preference))
    assert [row.source for row in found] == [row.id for row in rows]
    assert [row.source for row in found if row.p_first is None] == [rows[3].id]
    assert "status 500" in (found[3].unscored or "")


def test_rows_that_go_missing(tmp_path: Path) -> None:
    def whole(out: Path, rows: list[Pair], step: object) -> None:
        asyncio.run(map_rows(out, rows, step, Preference, max_concurrency=4))  # type: ignore[arg-type]

    def theirs(out: Path, rows: list[Pair], step: object) -> None:
        asyncio.run(map_rows(out, rows[: len(rows) // 4 * 4], step, Preference, max_concurrency=4))  # type: ignore[arg-type]

    loses_no_row(whole, tmp_path)
    (tmp_path / "theirs").mkdir()
    fails(loses_no_row, theirs, tmp_path / "theirs")


# ---- training on the test split ----


def keeps_them_apart(divide: Callable[[list[Prompt]], tuple[list[Prompt], list[Prompt]]]) -> None:
    prompts = [
        Prompt(chat=chat_of(("user", f"ask {i}")), kind="benign", user=f"u{i % 7}")
        for i in range(70)
    ]
    train, held = divide(prompts)
    assert train
    assert held
    assert {p.id for p in train}.isdisjoint(p.id for p in held)
    assert {p.user for p in train}.isdisjoint(p.user for p in held)
    assert len(train) + len(held) == 70


def test_training_on_the_test_split() -> None:
    keeps_them_apart(lambda prompts: split(prompts, 0.3, 0))
    fails(keeps_them_apart, lambda prompts: (prompts, split(prompts, 0.3, 0)[1]))


# ---- text after a second colon, and every later paragraph, is lost ----

DIALOGUE = (
    "\n\nHuman: Note: one: two\n\nand more\n\nAssistant: Yes: I see."
    "\n\nHuman: So: what?\n\nSecond paragraph."
)


def reads_all_of_it(parse: Callable[[str], tuple[str, ...]]) -> None:
    assert parse(DIALOGUE) == (
        "Note: one: two\n\nand more",
        "Yes: I see.",
        "So: what?\n\nSecond paragraph.",
    )


def test_text_that_is_lost_at_a_colon_or_a_blank_line() -> None:
    reads_all_of_it(lambda text: tuple(m.content for m in dialogue_turns(text, "x")))
    fails(
        reads_all_of_it,
        lambda text: tuple(part.split(": ")[1] for part in text.split("\n\n") if ": " in part),
    )


# ---- no seed, no principle in the row, every revision chosen ----


def says_what_it_did(revise: Callable[[int, str], tuple[str | None, str | None]]) -> None:
    """(text to train on, principle) of a row by seed and revision."""
    good, principle = revise(0, "I would rather not do that.")
    assert (good, principle) == ("I would rather not do that.", "kind")
    assert revise(0, "") == (None, "kind"), "an empty revision is not what to train on"
    assert revise(0, "Here you go.")[0] != "Here you go.", "nor is the first reply once more"


def test_revisions_that_are_always_chosen_and_never_explained() -> None:
    def one(seed: int, revision: str) -> tuple[str | None, str | None]:
        lm = FakeLM(
            lambda chat, n: revision if "Write only" in chat[-1].content else "Here you go."
        )

        def gate(prompt: Prompt, reply: str) -> str | None:
            return not_degenerate(prompt, reply) or ("helps" if "Here" in reply else None)

        row = asyncio.run(
            reviser(BOOK, lm, ReviseConfig(), gate, seed)(
                PromptDraw(prompt=Prompt(chat=ASKED, kind="disallowed"))
            )
        )
        return row.final, row.rounds[0].principle

    says_what_it_did(one)
    fails(says_what_it_did, lambda seed, revision: (revision, None))


# ---- a judge that fails is a reward of 0.0 ----


def drops_what_it_does_not_know(
    sum_up: Callable[[RewardTable, list[Rollout]], list[float]],
) -> None:
    rollouts = [Rollout(Prompt(chat=ASKED), [1], [2], "x", True) for _ in range(3)]
    assert sum_up({"judge": [1.0, None, -1.0]}, rollouts) == [1.0, -1.0]


def test_a_time_out_that_is_a_reward_of_zero() -> None:
    drops_what_it_does_not_know(lambda table, rollouts: sum_rewards(table)[1])
    fails(
        drops_what_it_does_not_know,
        lambda table, rollouts: [part or 0.0 for part in table["judge"]],
    )


# ---- a blank line inside a rationale shifts every later rating ----


def keeps_labels_by_their_replies(label: Labeller) -> None:
    """A reply with blank lines and a rating of its own gets its own label, and so does the other
    one.
    """
    torn = "good\n\nRating: high\n\nbad"
    judge = FakeLM(
        lambda chat, seed: "",
        lambda chat, choices: [2.0, 0.0] if shown(chat)[0] == torn else [-2.0, 0.0],
    )
    assert label(judge, pair(torn, "other")) == pytest.approx(1 / (1 + math.exp(-2)))
    assert label(judge, pair("other", torn)) == pytest.approx(1 / (1 + math.exp(2)))


def test_a_blank_line_that_shifts_the_ratings() -> None:
    keeps_labels_by_their_replies(ours)

    def theirs(judge: FakeLM, what: Pair) -> float | None:
        """One text for both replies, taken apart at blank lines."""
        parts = f"{what.first}\n\n{what.second}".split("\n\n")
        return ours(judge, pair(parts[0], parts[1]))

    fails(keeps_labels_by_their_replies, theirs)


# ---- a later principle undoes an earlier one; the unrevised answer is returned ----


def keeps_what_was_mended(
    pick: Callable[[list[Round], dict[str, tuple[float | None, ...]]], str | None],
) -> None:
    """By `kind` the second round is far worse than the first, which had mended it."""
    rounds = [
        Round(principle="kind", critique="", revision="mended"),
        Round(principle="short", critique="", revision="undone"),
    ]
    assert pick(rounds, {"kind": (0.9, 0.2), "short": (0.5, 0.6)}) == "mended"


def test_a_later_principle_that_undoes_an_earlier_one() -> None:
    item = PromptDraw(prompt=Prompt(chat=ASKED, kind="disallowed"))
    keeps_what_was_mended(
        lambda rounds, matrix: choose(item, "start", rounds, lambda p, r: None, matrix).final
    )
    fails(keeps_what_was_mended, lambda rounds, matrix: rounds[-1].revision)
    fails(keeps_what_was_mended, lambda rounds, matrix: "start")
    assert regressed_principle({"kind": (0.9, 0.2)}, 1) == "kind"


# ---- "Sure, here is a revised response:" is trained on ----


def takes_the_reply_alone(parse: Callable[[str], str | None]) -> None:
    assert (
        parse("Sure, here is the revised response:\n\nI would rather not.") == "I would rather not."
    )


def test_talk_about_the_reply_that_is_trained_on() -> None:
    takes_the_reply_alone(lambda text: parse_reply(text, finished=True))
    fails(takes_the_reply_alone, str.strip)

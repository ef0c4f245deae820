"""Silent mistakes of other projects: cai passes each check, and a re-creation of the mistake fails.

Each check takes the function under test, so that the same assertions are applied to both.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from generate_toys import comparison_parts, label, pair

from cai.async_map import map_rows
from cai.constitution import Constitution, Principle
from cai.data.readers import dialogue_turns
from cai.data.split import split
from cai.errors import UnansweredError
from cai.generate.filters import not_degenerate
from cai.generate.label import labeller
from cai.generate.label_config import LabelConfig
from cai.generate.pair import PairConfig, PairItem, pairer
from cai.generate.regression import regressed_principle
from cai.generate.revise import ReviseConfig, choose, reviser
from cai.lm import FakeLM
from cai.records import Chat, Pair, Preference, Prompt, PromptDraw, Round, chat_of
from cai.reply_parsing import parse_reply
from cai.store import read_rows
from cai.templates import parse_verdict
from cai.train.ppo.reward_table import sum_rewards
from cai.train.ppo.rollout import RewardTable, Rollout

CONSTITUTION = Constitution(
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
CHAT = chat_of(("user", "Say it."))
Labeller = Callable[[FakeLM, Pair], float | None]
"""P(first beats second), or None."""


def cai_label(judge: FakeLM, replies: Pair) -> float | None:
    return label(judge, replies, CONSTITUTION).p_first


def judge_of(choose: Callable[[Chat, Sequence[str]], list[float] | None]) -> FakeLM:
    """A judge with these log-probabilities and no rationale."""
    return FakeLM(lambda chat, seed: "", choose)


def biased_odds(chat: Chat, choices: Sequence[str]) -> list[float]:
    """Prefers the good reply by three nats, with a position bias of two nats for (B)."""
    reply_a, _, _ = comparison_parts(chat)
    return [1.0, 0.0] if reply_a == "good" else [-5.0, 0.0]


def fails(check: Callable[..., None], *theirs: object) -> None:
    with pytest.raises(AssertionError):
        check(*theirs)


# ---- the verdict is never used: its guard is never true, and the first reply always wins ----


def uses_the_verdict(label_of: Labeller) -> None:
    stream = random.Random(0)
    for _ in range(20):
        first = stream.choice(["good", "bad"])
        second = "bad" if first == "good" else "good"
        p = label_of(judge_of(biased_odds), pair(first, second))
        assert p is not None
        assert (p > 0.5) == (first == "good")


def test_a_verdict_that_is_shuffled_and_never_unshuffled() -> None:
    uses_the_verdict(cai_label)
    fails(uses_the_verdict, lambda judge, replies: 1.0)


# ---- no verdict becomes a label: a random one, a zero, a tie, or "A" ----


def has_no_label_without_a_verdict(label_of: Labeller) -> None:
    unknown: tuple[list[float] | None, ...] = (None, [math.nan, 0.0])
    for logprobs in unknown:
        judge = judge_of(lambda chat, choices, logprobs=logprobs: logprobs)
        assert label_of(judge, pair("good", "bad")) is None
    equal = pair("same", "same")
    assert label_of(judge_of(biased_odds), equal) is None, "chosen and rejected are one text"


@pytest.mark.parametrize("theirs", [0.0, 0.5, 1.0, random.Random(0).random()])
def test_no_verdict_that_becomes_a_label(theirs: float) -> None:
    has_no_label_without_a_verdict(cai_label)
    fails(has_no_label_without_a_verdict, lambda judge, replies: theirs)


def reads_no_verdict_into_text(parse: Callable[[str], str | None]) -> None:
    assert parse("I cannot decide.") is None
    assert parse("") is None
    assert parse("The better reply is (B).") == "B"


def test_an_unreadable_verdict_that_is_an_a() -> None:
    reads_no_verdict_into_text(parse_verdict)
    fails(reads_no_verdict_into_text, lambda text: "B" if "(B)" in text else "A")


# ---- the two replies differ in temperature, which the preference model then learns ----


def draws_alike(draw: Callable[[FakeLM], Pair]) -> None:
    drawn = draw(FakeLM(lambda chat, seed: f"text {seed}"))
    assert drawn.sampled is not None
    first, second = drawn.sampled
    assert first.temperature == second.temperature
    assert first.seed != second.seed


def test_candidates_of_different_temperatures() -> None:
    def ours(lm: FakeLM) -> Pair:
        item = PairItem(prompt=Prompt(chat=CHAT), indices=(0, 1))
        return asyncio.run(pairer(lm, PairConfig(), 0)(item))

    def theirs(lm: FakeLM) -> Pair:
        drawn = ours(lm)
        assert drawn.sampled is not None
        hot = drawn.sampled[1].model_copy(update={"temperature": 1.51})
        return drawn.model_copy(update={"sampled": (drawn.sampled[0], hot)})

    draws_alike(ours)
    fails(draws_alike, theirs)


# ---- rows go missing: the last part of a batch, and all that raised ----

Map = Callable[[Path, list[Pair], Callable[[Pair], object]], None]


def loses_no_row(map_over: Map, folder: Path) -> None:
    """Ten rows in windows of four, one without an answer: ten rows are written, in order, and that
    one has the reason.
    """
    rows = [pair(f"a{i}", f"b{i}") for i in range(10)]

    def faulty_odds(chat: Chat, choices: Sequence[str]) -> list[float]:
        if "a3" in comparison_parts(chat):
            raise UnansweredError("status 500")
        return [0.5, 0.0]

    out = folder / "out.jsonl"
    judge = judge_of(faulty_odds)
    map_over(out, rows, labeller(CONSTITUTION, judge, LabelConfig(), 0, lambda pair: (None, None)))
    written = list(read_rows(out, Preference))
    assert [row.source for row in written] == [row.id for row in rows]
    assert [row.source for row in written if row.p_first is None] == [rows[3].id]
    assert "status 500" in (written[3].unscored or "")


def test_rows_that_go_missing(tmp_path: Path) -> None:
    def ours(out: Path, rows: list[Pair], step: object) -> None:
        asyncio.run(map_rows(out, rows, step, Preference, max_concurrency=4))  # type: ignore[arg-type]

    def theirs(out: Path, rows: list[Pair], step: object) -> None:
        asyncio.run(map_rows(out, rows[: len(rows) // 4 * 4], step, Preference, max_concurrency=4))  # type: ignore[arg-type]

    loses_no_row(ours, tmp_path)
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


# ---- text after a second colon, and all later paragraphs, are lost ----

DIALOGUE = (
    "\n\nHuman: Note: one: two\n\nand more\n\nAssistant: Yes: I see."
    "\n\nHuman: So: what?\n\nSecond paragraph."
)


def reads_all_text(parse: Callable[[str], tuple[str, ...]]) -> None:
    assert parse(DIALOGUE) == (
        "Note: one: two\n\nand more",
        "Yes: I see.",
        "So: what?\n\nSecond paragraph.",
    )


def test_text_that_is_lost_at_a_colon_or_a_blank_line() -> None:
    reads_all_text(lambda text: tuple(m.content for m in dialogue_turns(text, "x")))
    fails(
        reads_all_text,
        lambda text: tuple(part.split(": ")[1] for part in text.split("\n\n") if ": " in part),
    )


# ---- no seed, no principle in the row, all revisions chosen ----


def records_its_choices(revise: Callable[[int, str], tuple[str | None, str | None]]) -> None:
    """(text to train on, principle) of a row by seed and revision."""
    good, principle = revise(0, "I would rather not do that.")
    assert (good, principle) == ("I would rather not do that.", "kind")
    assert revise(0, "") == (None, "kind"), "an empty revision is not trained on"
    assert revise(0, "Here you go.")[0] != "Here you go.", "nor is the first reply"


def test_revisions_that_are_always_chosen_and_never_explained() -> None:
    def ours(seed: int, revision: str) -> tuple[str | None, str | None]:
        lm = FakeLM(
            lambda chat, n: revision if "Write only" in chat[-1].content else "Here you go."
        )

        def gate(prompt: Prompt, reply: str) -> str | None:
            return not_degenerate(prompt, reply) or ("helps" if "Here" in reply else None)

        row = asyncio.run(
            reviser(CONSTITUTION, lm, ReviseConfig(), gate, seed)(
                PromptDraw(prompt=Prompt(chat=CHAT, kind="disallowed"))
            )
        )
        return row.final, row.rounds[0].principle

    records_its_choices(ours)
    fails(records_its_choices, lambda seed, revision: (revision, None))


# ---- a judge that fails is a reward of 0.0 ----


def drops_unknown_rewards(
    sum_up: Callable[[RewardTable, list[Rollout]], list[float]],
) -> None:
    rollouts = [Rollout(Prompt(chat=CHAT), [1], [2], "x", True) for _ in range(3)]
    assert sum_up({"judge": [1.0, None, -1.0]}, rollouts) == [1.0, -1.0]


def test_a_time_out_that_is_a_reward_of_zero() -> None:
    drops_unknown_rewards(lambda table, rollouts: sum_rewards(table)[1])
    fails(
        drops_unknown_rewards,
        lambda table, rollouts: [part or 0.0 for part in table["judge"]],
    )


# ---- a blank line inside a rationale shifts every later rating ----


def labels_belong_to_their_replies(label_of: Labeller) -> None:
    """A reply that contains blank lines and a rating gets its label, and so does the other one."""
    torn = "good\n\nRating: high\n\nbad"
    judge = judge_of(
        lambda chat, choices: [2.0 if comparison_parts(chat)[0] == torn else -2.0, 0.0]
    )
    assert label_of(judge, pair(torn, "other")) == pytest.approx(1 / (1 + math.exp(-2)))
    assert label_of(judge, pair("other", torn)) == pytest.approx(1 / (1 + math.exp(2)))


def test_a_blank_line_that_shifts_the_ratings() -> None:
    labels_belong_to_their_replies(cai_label)

    def theirs(judge: FakeLM, replies: Pair) -> float | None:
        """One text of both replies, split at blank lines."""
        parts = f"{replies.first}\n\n{replies.second}".split("\n\n")
        return cai_label(judge, pair(parts[0], parts[1]))

    fails(labels_belong_to_their_replies, theirs)


# ---- a later principle undoes an earlier one; the unrevised answer is returned ----


def returns_the_better_revision(
    pick: Callable[[list[Round], dict[str, tuple[float | None, ...]]], str | None],
) -> None:
    """By `kind` the second round is far worse than the first."""
    rounds = [
        Round(principle="kind", critique="", revision="better"),
        Round(principle="short", critique="", revision="undone"),
    ]
    assert pick(rounds, {"kind": (0.9, 0.2), "short": (0.5, 0.6)}) == "better"


def test_a_later_principle_that_undoes_an_earlier_one() -> None:
    item = PromptDraw(prompt=Prompt(chat=CHAT, kind="disallowed"))
    returns_the_better_revision(
        lambda rounds, matrix: choose(item, "start", rounds, lambda p, r: None, matrix).final
    )
    fails(returns_the_better_revision, lambda rounds, matrix: rounds[-1].revision)
    fails(returns_the_better_revision, lambda rounds, matrix: "start")
    assert regressed_principle({"kind": (0.9, 0.2)}, 1) == "kind"


# ---- "Sure, here is a revised response:" is trained on ----


def extracts_the_reply(parse: Callable[[str], str | None]) -> None:
    assert (
        parse("Sure, here is the revised response:\n\nI would rather not.") == "I would rather not."
    )


def test_talk_about_the_reply_that_is_trained_on() -> None:
    extracts_the_reply(lambda text: parse_reply(text, finished=True))
    fails(extracts_the_reply, str.strip)

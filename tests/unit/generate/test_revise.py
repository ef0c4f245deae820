"""Critique and revision, with an author whose replies are known."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from generate_toys import ONE_PRINCIPLE, constitution, declines, judge, label, principle, prompt

from cai.constitution import Constitution, CritiqueExample, Examples
from cai.data.split import read_prompts
from cai.generate.revise import (
    ReviseConfig,
    choose,
    draw_principle,
    revise_items,
    revised_item,
    reviser,
)
from cai.lm import FakeLM
from cai.records import Chat, Kind, Pair, Prompt, PromptDraw, Revision, Round, chat_of
from cai.templates import NO_CRITIQUE, SELF_CORRECTION, fence, revision_chat
from cai.train.sft import SFTConfig
from cai.train.sft_rows import revision_rows


def request_type(chat: Chat) -> str:
    """critique, revision or reply"""
    last = chat[-1].content
    if "critique by" in last:
        return "critique"
    return "revision" if "Write only the new reply." in last else "reply"


def last_reply(chat: Chat) -> str:
    """The reply at the end of the last transcript in a critique or revision chat."""
    shown = [m.content for m in chat if m.role == "user" and "\nAssistant: " in m.content][-1]
    return shown.rsplit("\nAssistant: ", 1)[1].split("\n```")[0]


def author(
    initial: str = "Here you go.",
    revisions: Sequence[str] = ("I am sorry, no.",),
    critique: str = "It helps.",
) -> FakeLM:
    """A model that replies with `initial`, and with `revisions[n]` in the n-th revision."""
    following = dict(zip([initial, *revisions], revisions, strict=False))

    def reply(chat: Chat, seed: int) -> str:
        kind = request_type(chat)
        if kind == "reply":
            return initial
        return critique if kind == "critique" else following[last_reply(chat)]

    return FakeLM(reply)


def run(
    lm: FakeLM,
    row: Prompt | None = None,
    *,
    book: Constitution = ONE_PRINCIPLE,
    **settings: object,
) -> Revision:
    step = reviser(book, lm, ReviseConfig.model_validate(settings), declines, 0)
    return asyncio.run(step(PromptDraw(prompt=row or prompt())))


def test_one_round() -> None:
    """Reply, critique by the drawn principle, revision by the critique: three calls, one row."""
    lm = author()
    row = run(lm)
    assert row == Revision(
        source=prompt().id,
        chat=prompt().chat,
        initial="Here you go.",
        initial_finished=True,
        rounds=(
            Round(
                principle="one",
                critique="It helps.",
                revision="I am sorry, no.",
                finished=True,
                passes=True,
            ),
        ),
        final="I am sorry, no.",
        chosen_round=0,
    )
    assert [request_type(chat) for chat in lm.calls] == ["reply", "critique", "revision"]
    assert lm.calls[0] == prompt().chat
    transcript = "```\nUser: Do harm.\nAssistant: Here you go.\n```"
    assert lm.calls[1][-1].content == f"{transcript}\n\ncritique by one?"
    assert lm.calls[2] == revision_chat(
        (), prompt().chat, "Here you go.", principle("one"), "It helps."
    )


def test_a_question_of_stereotypes_is_answered_under_an_instruction() -> None:
    """One call, with the instruction in the user's turn. What is learnt is the question without it,
    and no critique follows, although the kind is one that is revised.
    """

    def reply(chat: Chat, seed: int) -> str:
        is_told = chat[-1].content.endswith(SELF_CORRECTION)
        return "I am sorry, that is not stated." if is_told else "The older one, surely."

    lm = FakeLM(reply)
    question = prompt("A pensioner and a student came in. Who was forgetful?", category="age")
    row = run(lm, question, self_correction=["age", "nationality"])
    assert lm.num_calls == 1
    assert lm.calls[0][-1].content.startswith("A pensioner and a student came in.")
    assert (row.final, row.rounds) == ("I am sorry, that is not stated.", ())
    assert row.self_corrected
    (learnt,) = revision_rows(row, SFTConfig())
    assert learnt.chat == question.chat
    assert SELF_CORRECTION not in row.line()


def test_other_prompts_know_nothing_of_the_instruction() -> None:
    lm = author()
    row = run(lm, self_correction=["age"])
    assert row == run(author())
    assert not any(SELF_CORRECTION in chat[-1].content for chat in lm.calls)


def test_what_the_gate_stops_is_not_learnt_either() -> None:
    question = prompt("Who was forgetful?", category="age")
    row = run(author(initial="The older one."), question, self_correction=["age"])
    assert (row.final, row.dropped) == (None, "does not decline")


def test_rounds_stop_when_one_is_kept() -> None:
    lm = author(revisions=("Well, maybe.", "So sorry, no.", "Very sorry, never."))
    row = run(lm, rounds=4)
    assert [r.revision for r in row.rounds] == ["Well, maybe.", "So sorry, no."]
    assert (row.final, row.chosen_round) == ("So sorry, no.", 1)


def test_all_rounds_when_asked() -> None:
    """Each round works on the previous revision, and all of them are stored in the row."""
    revisions = ("Well, maybe.", "So sorry, no.", "Very sorry, never.")
    lm = author(revisions=revisions)
    row = run(lm, rounds=3, stop_when_kept=False)
    assert tuple(r.revision for r in row.rounds) == revisions
    assert (row.final, row.chosen_round) == (revisions[2], 2)
    criticised = [last_reply(chat) for chat in lm.calls if request_type(chat) == "critique"]
    assert criticised == ["Here you go.", *revisions[:2]]


def test_a_later_round_cannot_undo_an_earlier_one() -> None:
    """A later round may spoil the reply: the latest acceptable revision is chosen, not the last."""
    row = run(
        author(revisions=("So sorry, no.", "Fine, take this.")), rounds=2, stop_when_kept=False
    )
    assert (row.final, row.chosen_round, len(row.rounds)) == ("So sorry, no.", 0, 2)


def test_an_empty_revision_does_not_throw_away_the_one_before() -> None:
    lm = author(revisions=("Well, maybe.", ""))
    row = run(lm, rounds=3)
    assert [r.revision for r in row.rounds] == ["Well, maybe.", "", ""]
    criticised = [last_reply(chat) for chat in lm.calls if request_type(chat) == "critique"]
    assert criticised == ["Here you go.", "Well, maybe.", "Well, maybe."]


def test_the_first_reply_stands_when_no_revision_does() -> None:
    row = run(author(initial="I am sorry, I will not.", revisions=("Take this.",)))
    assert (row.final, row.chosen_round) == ("I am sorry, I will not.", None)
    assert (row.dropped, len(row.rounds)) == (None, 1)


def test_dropped_with_the_last_reason() -> None:
    row = run(author(revisions=("Well.", "Take this.")), rounds=2)
    assert (row.final, row.chosen_round, row.dropped) == (None, None, "does not decline")
    same = "A reply of quite a few words that nobody changes."
    row = run(author(initial=same, revisions=(same,)))
    assert row.dropped == "near copy of the first reply"
    row = run(author(initial=same, revisions=("Take this.", same)), rounds=2)
    assert row.dropped == "near copy of the first reply", "round 1 had another reason"


def test_benign_prompts_keep_their_reply() -> None:
    """No round and no critique; the gate applies to the reply itself."""
    lm = author(initial="No sorry needed, here is how.")
    row = run(lm, prompt("Bake bread?", "benign"), rounds=3)
    assert (row.final, row.rounds, len(lm.calls)) == ("No sorry needed, here is how.", (), 1)
    assert run(author(), prompt("Bake bread?", "benign")).dropped == "does not decline"


def test_kinds_choose_who_is_revised() -> None:
    assert len(run(author(), prompt(kind="sensitive")).rounds) == 1
    assert len(run(author(), prompt(kind="sensitive"), kinds=("disallowed",)).rounds) == 0
    assert len(run(author(), prompt(kind=None)).rounds) == 1, "not known to be benign: revised"
    assert len(run(author(), rounds=0).rounds) == 0


def test_no_principle_no_round() -> None:
    """None for the kind; none with a revision; none with a critique, unless `direct` is set."""
    for book in (
        constitution(principle("p", ["benign"])),
        constitution(principle("p", revision=None)),
        constitution(),
    ):
        assert run(author(), book=book).rounds == ()
    mute = constitution(principle("p", critique=None))
    assert run(author(), book=mute).rounds == ()
    assert [r.principle for r in run(author(), book=mute, direct=True).rounds] == ["p"]


def test_direct_revision_asks_no_critic() -> None:
    lm = author()
    row = run(lm, direct=True)
    assert [(r.critique, r.revision) for r in row.rounds] == [("", "I am sorry, no.")]
    assert [request_type(chat) for chat in lm.calls] == ["reply", "revision"]


def test_a_silent_critic_is_recorded_as_silent() -> None:
    lm = author(critique=" ")
    assert run(lm).rounds[0].critique == ""
    assert fence(NO_CRITIQUE) in lm.calls[-1][-1].content


def test_cut_replies_lose_their_unfinished_sentence() -> None:
    """The fake counts words. Five of eight: "I am sorry. I will" ends after its first sentence."""
    row = run(author(revisions=("I am sorry. I will not do that.",)), max_tokens=5)
    assert row.final == "I am sorry."


def test_few_shots_come_before_the_question() -> None:
    shot = CritiqueExample(
        chat=chat_of(("user", "Hi"), ("assistant", "Go away.")), critique="Rude.", revision="Hello!"
    )
    lm = author()
    run(lm, book=constitution(principle("one"), examples=Examples(critique=(shot,))))
    assert lm.calls[1][2].content == "Rude."
    assert lm.calls[1][-1].content.endswith("critique by one?")


def test_few_shots_are_those_of_the_prompts_kind() -> None:
    """Examples of refusals are not shown for sensitive prompts; unknown kinds get all examples."""
    flawed = chat_of(("user", "Hi"), ("assistant", "Go away."))
    cold = CritiqueExample(
        chat=flawed, critique="Cold.", revision="Hello!", applies_to=("sensitive",)
    )
    rude = CritiqueExample(
        chat=flawed, critique="Rude.", revision="Hello!", applies_to=("disallowed",)
    )
    book = constitution(principle("one"), examples=Examples(critique=(cold, rude)))
    kinds: list[tuple[Kind | None, list[str]]] = [
        ("disallowed", ["Rude."]),
        ("sensitive", ["Cold."]),
        (None, ["Cold.", "Rude."]),
    ]
    for kind, shown in kinds:
        lm = author()
        run(lm, Prompt(chat=chat_of(("user", "Do it.")), kind=kind), book=book)
        assert [m.content for m in lm.calls[1] if m.role == "assistant"] == shown


def test_revisions_do_not_depend_on_the_order_of_work() -> None:
    """The author's words follow from its seed.

    Forwards, backwards and alone the rows are equal; with another seed they differ.
    """
    book = constitution(*(principle(f"p{i}") for i in range(5)))
    prompts = [prompt(f"Do harm {i}.") for i in range(12)]
    config = ReviseConfig(rounds=3)

    async def rows(order: Sequence[Prompt], seed: int) -> dict[str, Revision]:
        lm = FakeLM(lambda chat, n: f"words {n} {n * 3} {n * 7}")
        step = reviser(book, lm, config, declines, seed)
        results = await asyncio.gather(*(step(PromptDraw(prompt=p)) for p in order))
        return {row.source: row for row in results}

    forwards = asyncio.run(rows(prompts, 0))
    assert asyncio.run(rows(prompts[::-1], 0)) == forwards
    assert asyncio.run(rows(prompts[4:5], 0)) == {prompts[4].id: forwards[prompts[4].id]}
    assert all(forwards[key] != row for key, row in asyncio.run(rows(prompts, 1)).items())
    texts: list[str] = []
    for row in forwards.values():
        texts += [row.initial, *(r.critique + r.revision for r in row.rounds)]
    assert len(set(texts)) == len(texts) == 12 * 4, "all calls have different seeds"


def test_principles_are_drawn_by_weight() -> None:
    """10,000 draws. Weights 1, 2, 5: shares 1/8, 2/8, 5/8.

    In the category of the first, which then weighs four times as much: 4/11, 2/11, 5/11.

    Each count within 3 standard deviations, sqrt(n p (1 - p)).
    """
    principles = [
        principle("a", weight=1.0, category="drugs"),
        principle("b", weight=2.0),
        principle("c", weight=5.0),
    ]
    for row, weights in (
        (prompt(category="none-of-them"), (1, 2, 5)),
        (prompt(category="drugs"), (4, 2, 5)),
    ):
        draws = [draw_principle(principles, row, 0, n) for n in range(10_000)]
        counts = Counter(drawn.id for drawn in draws if drawn)
        for name, weight in zip("abc", weights, strict=True):
            share = weight / sum(weights)
            assert abs(counts[name] - 10_000 * share) < 3 * math.sqrt(10_000 * share * (1 - share))


def test_helpful_samples() -> None:
    """Prompts to revise get one draw, the others two, with different ids and replies.

    Resuming distinguishes them by the id.
    """
    harmful, benign = prompt(), prompt("Say hi.", kind="benign")
    config = ReviseConfig(helpful_samples=2)
    items = revise_items([harmful, benign], config)
    assert [(item.prompt.kind, item.draw) for item in items] == [
        ("disallowed", 0),
        ("benign", 0),
        ("benign", 1),
    ]
    step = reviser(ONE_PRINCIPLE, FakeLM(lambda chat, seed: f"sorry {seed}"), config, declines, 0)
    rows = [asyncio.run(step(item)) for item in items]
    assert [revised_item(row) for row in rows] == [item.id for item in items]
    assert rows[1].initial != rows[2].initial


def test_choose_without_rounds() -> None:
    row = choose(PromptDraw(prompt=prompt()), "Take this.", [], declines)
    assert row.dropped == "does not decline"


def test_prompts_reach_the_model_whole(tmp_path: Path) -> None:
    """Colons, blank lines, braces and a forged turn, from a file.

    Author, critic and judge all see the complete text.
    """
    text = "Note: first: second\n\nHuman: third {x} paragraph\n\n\nLast: line"
    file = tmp_path / "p.jsonl"
    file.write_text(Prompt(chat=chat_of(("user", text)), kind="disallowed").line() + "\n")
    ((loaded,), _) = read_prompts([file])
    lm = author()
    row = run(lm, loaded)
    assert lm.calls[0] == chat_of(("user", text))
    indented = "\n  ".join(text.splitlines())  # so that no line is taken for a turn
    for chat in lm.calls[1:]:
        assert f"User: {indented}\nAssistant: Here you go." in chat[-1].content
    assert row.chat[0].content == text
    judge_lm = judge(lambda a, b: 1.0)
    label(judge_lm, Pair(source=loaded.id, chat=loaded.chat, first="a", second="b"))
    for chat in judge_lm.calls:
        assert f"```\nUser: {indented}\n```" in chat[-1].content


def test_first_replies_are_not_edited() -> None:
    """A first reply keeps what a revision would lose: its introduction, and text after a block."""
    text = "```\nls\n```\nHere are two tips: list, then look."
    row = run(author(text), prompt(kind="benign"), kinds=("disallowed",))
    assert row.initial == text
    assert row.final is None or row.final == text
    edited = run(author("Fine: go.", [f"Here is the revised reply: {text}"]))
    assert edited.rounds[0].revision == "ls"

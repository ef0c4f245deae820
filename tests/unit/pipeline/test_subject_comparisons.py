"""Base, SFT, policy and named subjects of a run, compared by its judge and rated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from interruptions import quiet
from json_lines import write_lines

from cai.artifacts import EVALUATIONS, HELD_OUT, REPLIES, SCORES
from cai.constitution import load_constitution
from cai.errors import BudgetError, CaiError, ConfigError, StoreError
from cai.evals.judged_pairs import JudgedPair
from cai.lm import LM
from cai.lm.fake import FakeLM
from cai.pipeline.config import load_run
from cai.pipeline.context import RunContext
from cai.pipeline.evaluation_stages import evaluate_others
from cai.records import Chat, EvalReply, Prompt, Score, chat_of
from cai.report.sections import read_scores
from cai.report.table import headline_rows
from cai.rubric import compile_rubric, unscored_grade
from cai.store import read_rows
from cai.templates import parse_comparison

COUNT = 6
KIND = {"system": "Be kind."}


def reply(chat: Chat, seed: int) -> str:
    """A kind reply where the system turn asks for one; no two replies are equal."""
    return f"{'kind' if 'kind' in chat[0].content else 'short'} words {seed}"


def prefers_kind(chat: Chat, choices: Sequence[str]) -> list[float]:
    """Nine to one for the only kind reply; else even odds."""
    first, second = parse_comparison(chat) or ("", "")
    lead = ("kind" in first) - ("kind" in second)
    return [0.0, -2.197 * lead] if lead >= 0 else [2.197 * lead, 0.0]


class Context(RunContext):
    """A run's context in which one fake answers and judges."""

    fake = FakeLM(reply, prefers_kind)

    def lm(self, spec: str) -> LM:
        return self.fake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prompts = [Prompt(chat=chat_of(("user", f"question {i}")), kind="benign") for i in range(COUNT)]
    (tmp_path / "run").mkdir()
    write_lines(tmp_path / "prompts.jsonl", *({"prompt": p.chat[0].content} for p in prompts))
    (tmp_path / "run" / HELD_OUT).write_text("".join(p.line() + "\n" for p in prompts))
    (tmp_path / "run" / SCORES).write_text("")
    write_replies(tmp_path, prompts, policy="kind")
    return tmp_path


def write_replies(folder: Path, prompts: Sequence[Prompt], policy: str) -> None:
    words = {"base": "short", "sft": "short", "policy": policy}
    rows = [
        EvalReply(
            source=prompt.id,
            subject=subject,
            chat=prompt.chat,
            kind="benign",
            category=None,
            draw=0,
            response=f"{words[subject]} words of {subject}",
            finished=True,
            grade=unscored_grade({}, "no class"),
            reward=None,
            kl=None,
        )
        for subject in words
        for prompt in prompts
    ]
    (folder / "run" / REPLIES).write_text("".join(row.line() + "\n" for row in rows))


def context(folder: Path, subjects: dict[str, Any], **settings: Any) -> Context:
    run = {
        "name": "toy",
        "folder": str(folder / "run"),
        "constitution": "harmless",
        "model": "fake:echo",
        "prompts": ["prompts.jsonl"],
        "eval": {"subjects": subjects, **settings},
    }
    (folder / "run.yaml").write_text(json.dumps(run, indent=1))
    constitution = load_constitution("harmless")
    assert constitution.rubric is not None
    resolved = load_run(folder / "run.yaml")
    ctx = Context(resolved, constitution, compile_rubric(constitution.rubric), lambda name: quiet)
    ctx.fake = FakeLM(reply, prefers_kind)
    return ctx


def calls(ctx: Context) -> int:
    evaluate_others(ctx)
    return ctx.fake.num_calls


def scores(folder: Path) -> dict[tuple[str, str], Score]:
    return {(s.metric, s.subject): s for s in read_scores(folder / "run" / SCORES)}


def test_subjects_are_rated_by_the_judge_in_both_orders(folder: Path) -> None:
    """Six replies of the prompted baseline, and six pairs of subjects, six prompts, two orders. By
    hand: nine to one is 400 log10(9) = 381.7 Elo, for policy and baseline alike.
    """
    ctx = context(folder, {"prompted": KIND})
    assert calls(ctx) == COUNT + 6 * COUNT * 2
    rated = scores(folder)
    assert [rated["elo.rating", name].mean for name in ("base", "sft")] == pytest.approx(
        [0, 0], abs=0.01
    )
    for name in ("policy", "prompted"):
        assert rated["elo.rating", name].mean == pytest.approx(381.7, abs=0.5)
        assert rated["elo.win_rate", name].mean == pytest.approx(0.9, abs=1e-3)
        assert rated["elo.rating", name].n == 3 * COUNT
    subjects, lines = headline_rows(rated.values())
    assert subjects == ["base", "sft", "policy", "prompted"]
    assert dict(lines)["Elo rating by the judge, base = 0 ↑"][3].startswith("382 ")


def test_nothing_is_asked_twice(folder: Path) -> None:
    """A further subject costs its own replies and its comparisons with the four others."""
    assert calls(context(folder, {"prompted": KIND})) > 0
    assert calls(context(folder, {"prompted": KIND})) == 0
    more = {"prompted": KIND, "other": {"system": "Be brief."}}
    assert calls(context(folder, more)) == COUNT + 4 * COUNT * 2


def test_what_was_judged_before_an_interruption_is_kept(folder: Path) -> None:
    first = context(folder, {"prompted": KIND})
    judge = first.fake.odds

    def stops(chat: Chat, choices: Sequence[str]) -> list[float] | None:
        if first.fake.num_calls > COUNT + 29:
            raise BudgetError("enough")
        return judge(chat, choices)

    first.fake.odds = stops
    with pytest.raises(BudgetError):
        evaluate_others(first)
    files = sorted((folder / "run" / EVALUATIONS / "elo" / "comparisons").glob("*/*.jsonl"))
    judged = sum(len(list(read_rows(file, JudgedPair))) for file in files)
    assert 0 < judged < 6 * COUNT
    assert calls(context(folder, {"prompted": KIND})) == (6 * COUNT - judged) * 2


def test_only_verdicts_on_other_replies_are_made_anew(folder: Path) -> None:
    """A policy's new replies are compared with those of the three others again."""
    assert calls(context(folder, {"prompted": KIND})) > 0
    prompts = list(read_rows(folder / "run" / HELD_OUT, Prompt))
    write_replies(folder, prompts, policy="curt")
    assert calls(context(folder, {"prompted": KIND})) == 3 * COUNT * 2
    assert scores(folder)["elo.rating", "policy"].mean == pytest.approx(0, abs=0.01)


def test_more_prompts_cost_only_what_is_new(folder: Path) -> None:
    """Of two prompts, then of six."""
    assert calls(context(folder, {"prompted": KIND}, compared_prompts=2)) == 2 + 6 * 2 * 2
    assert calls(context(folder, {"prompted": KIND})) == (COUNT - 2) * (1 + 6 * 2)
    assert scores(folder)["elo.rating", "prompted"].n == 3 * COUNT


def test_a_subject_with_other_turns_is_another(folder: Path) -> None:
    assert calls(context(folder, {"prompted": KIND})) > 0
    with pytest.raises(StoreError, match="made with another turns"):
        evaluate_others(context(folder, {"prompted": {"system": "Be very kind."}}))


def test_a_subject_may_begin_with_worked_examples(folder: Path) -> None:
    """After its system turn, and before the prompt. Fewer prompts are compared than evaluated."""
    write_lines(
        folder / "shots.jsonl",
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    )
    ctx = context(folder, {"shots": KIND | {"turns": "shots.jsonl"}}, compared_prompts=2)
    assert calls(ctx) == 2 + 6 * 2 * 2
    first = ctx.fake.calls[0]
    assert [message.role for message in first] == ["system", "user", "assistant", "user"]
    (folder / "shots.jsonl").write_text('{"role": "boss", "content": ""}\n')
    with pytest.raises(StoreError, match=r"shots\.jsonl:1: a turn has"):
        context(folder, {"shots": {"turns": "shots.jsonl"}})


def test_without_subjects_nothing_is_compared(folder: Path) -> None:
    assert calls(context(folder, {})) == 0
    assert not (folder / "run" / EVALUATIONS).exists()


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ({"policy": "fake:echo"}, "policy is compared anyway"),
        ({"a/b": "fake:echo"}, "subjects"),
        ({"far": "http://me:secret@localhost/v1#m"}, r"eval\.subjects\.far"),
        ({"gone": "local:no/such/folder"}, r"eval\.subjects\.gone: no/such/folder: no such model"),
        ({"shots": {"turns": "shots.csv"}}, "turns"),
    ],
)
def test_a_subject_that_cannot_be_is_refused_at_once(
    folder: Path, subjects: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        context(folder, subjects)
    assert isinstance(error.value, CaiError)
    assert "secret" not in str(error.value)
    assert "run.yaml:" in str(error.value)

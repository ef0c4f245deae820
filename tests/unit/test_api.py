"""The Python API: equal to the commands and stages, inside and outside of an event loop."""

from __future__ import annotations

import asyncio
import doctest
import inspect
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runner import run_file, write_lines
from generate_toys import ONE_PRINCIPLE
from typer.testing import CliRunner

import cai
from cai import api
from cai.async_map import run_sync
from cai.cli import app
from cai.constitution import load
from cai.errors import CaiError, UnansweredError
from cai.evals.replies import EvalConfig
from cai.generate.label_config import LabelConfig
from cai.generate.revise import ReviseConfig
from cai.lm import FakeLM
from cai.modeling import model_files
from cai.records import Pair, Preference, Prompt, Revision, Score, chat_of
from cai.store import read_rows
from cai.train.ppo.config import PPOConfig
from cai.train.preference import RewardConfig

PROMPTS = [
    Prompt(chat=chat_of(("user", f"{kind} request {i}")), kind=kind)
    for kind in ("disallowed", "benign")
    for i in range(5)
]
PAIRS = [
    Pair(source=prompt.id, chat=prompt.chat, first=f"first {i}", second="second " * (i + 1))
    for i, prompt in enumerate(PROMPTS)
]
TEXTS = ["Say hello.", "Say goodbye."]
LABELS = [Preference(source=pair.id, p_first=(0.9, 0.2)[i % 2]) for i, pair in enumerate(PAIRS)]


def command(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)


def loads(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def in_running_loop(call: Callable[[], Any]) -> Any:
    async def notebook() -> Any:
        return call()

    return asyncio.run(notebook())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a fake model with its prompts, and with pairs of another program."""
    text = (
        "name: toy\nmodel: fake:brief\nconstitution: harmless\nprompts: [prompts.jsonl]\n"
        "folder: {folder}\nseed: 3\nrevise: {{rounds: 2, helpful_samples: 2, prompts: 5}}\n"
        "label: {{principles: 2}}\n"
    )
    fields = [{"chat": p.model_dump()["chat"], "kind": p.kind} for p in PROMPTS]
    file = run_file(tmp_path, text, *fields)
    command("run", file, "--until", "prompts")
    return file


# ---- against stages and commands ----


def test_revise_gives_the_rows_of_the_stage(run: Path) -> None:
    command("revise", run)
    out = run.parent / "out"
    prompts = list(read_rows(out / "00-prompts.jsonl", Prompt))
    config = ReviseConfig(rounds=2, helpful_samples=2, prompts=5)
    rows = cai.revise(prompts, constitution="harmless", model="fake:brief", config=config, seed=3)
    assert rows == list(read_rows(out / "10-revisions.jsonl", Revision))
    assert len(rows) > 5, "two replies to each benign prompt"
    other = cai.revise(prompts, constitution="harmless", model="fake:brief", config=config, seed=4)
    assert other != rows


def test_label_gives_the_rows_of_the_stage(run: Path) -> None:
    out = run.parent / "out"
    (out / "30-pairs.jsonl").write_text("".join(pair.line() + "\n" for pair in PAIRS))
    command("label", run)
    prompts = list(read_rows(out / "00-prompts.jsonl", Prompt))
    config = LabelConfig(principles=2)
    rows = cai.label(
        PAIRS,
        constitution="harmless",
        model="fake:brief",
        prompts=prompts,
        config=config,
        seed=3,
    )
    assert rows == list(read_rows(out / "40-preferences.jsonl", Preference))
    assert {len(row.votes) for row in rows} == {0, 2}, "none of its comparisons is for benign"


def test_label_gives_the_fields_of_the_command_for_pairs_without_a_kind(tmp_path: Path) -> None:
    lines = [
        {"chat": pair.model_dump()["chat"], "first": pair.first, "second": pair.second}
        for pair in PAIRS
    ]
    source, out = write_lines(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"
    options = ("--constitution", "harmless", "--model", "fake:brief", "--seed", 5)
    command("label", *options, "--input", source, "--output", out)
    rows = cai.label(PAIRS, constitution="harmless", model="fake:brief", seed=5)
    fields = [row.model_dump(mode="json", include={"p_first", "votes", "unscored"}) for row in rows]
    assert fields == [{key: line[key] for key in fields[0]} for line in loads(out)]


def test_grade_gives_the_fields_of_the_command(tmp_path: Path) -> None:
    responses = [
        ("I'm sorry, but I can't help with that.", "Sure, here it is.", "")[i % 3]
        for i in range(len(PROMPTS))
    ]
    lines = [
        {"chat": p.model_dump()["chat"], "kind": p.kind, "response": response}
        for p, response in zip(PROMPTS, responses, strict=True)
    ]
    source, out = write_lines(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"
    command("grade", "--constitution", "harmless", "--input", source, "--output", out)
    rows = cai.grade(PROMPTS, responses, constitution="harmless")
    fields = [row.model_dump(mode="json", exclude={"id", "source"}, by_alias=True) for row in rows]
    assert fields == [{key: line[key] for key in fields[0]} for line in loads(out)]
    assert [row.source for row in rows] == [prompt.id for prompt in PROMPTS]


def test_evaluate_gives_the_scores_of_the_command(tiny_model: Path, tmp_path: Path) -> None:
    """Sampled replies of a model with weights; a prompt that is given twice counts once."""
    lines = [{"chat": p.model_dump()["chat"], "kind": p.kind} for p in PROMPTS]
    data, out = write_lines(tmp_path / "data.jsonl", *lines), tmp_path / "scores.jsonl"
    options = ("--constitution", "harmless", "--draws", 2, "--max-reply", 8, "--seed", 2)
    model = f"local:{tiny_model}"
    command(
        "eval", "--only", "refusal", "--model", model, "--data", data, "--output", out, *options
    )
    config = EvalConfig(draws=2, max_tokens=8)
    given = [*PROMPTS, PROMPTS[0]]
    scores = cai.evaluate(given, model=model, constitution="harmless", config=config, seed=2)
    assert scores == list(read_rows(out, Score))


def test_fit_preference_model_writes_the_folder_of_the_command(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Weights, metrics and card to the byte; an unscored label is left out."""
    lines = [
        {"chat": pair.model_dump()["chat"], "first": pair.first, "second": pair.second}
        | {"p_first": label.p_first}
        for pair, label in zip(PAIRS, LABELS, strict=True)
    ]
    source = write_lines(tmp_path / "mine.jsonl", *lines)
    settings = ("--set", "lora_rank=2", "--set", "epochs=2", "--seed", 4)
    model, expected, output = f"local:{tiny_model}", tmp_path / "command", tmp_path / "mine"
    command("fit-reward", "--model", model, "--input", source, "--output", expected, *settings)
    extra = Pair(source="", chat=chat_of(("user", "x")), first="same", second="same")
    scores = cai.fit_preference_model(
        [extra, *PAIRS],
        [Preference(source=extra.id, p_first=None, unscored="the same"), *LABELS],
        model=model,
        output=str(output),
        config=RewardConfig(lora_rank=2, epochs=2),
        seed=4,
    )
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in output.iterdir()) == names
    for name in names:
        assert (output / name).read_bytes() == (expected / name).read_bytes(), name
    metrics = json.loads((output / "metrics.json").read_text())
    assert [score.model_dump() for score in scores] == [metrics["agreement"], metrics["log_loss"]]


# ---- arguments ----


def test_texts_are_prompts_without_a_kind() -> None:
    rows = [Prompt(chat=chat_of(("user", text))) for text in TEXTS]
    model, name = "fake:echo", "harmless"
    assert cai.revise(TEXTS, constitution=name, model=model) == cai.revise(
        rows, constitution=name, model=model
    )
    assert cai.evaluate(TEXTS, constitution=name, model=model) == cai.evaluate(
        rows, constitution=name, model=model
    )
    grades = cai.grade(TEXTS, ["Hello.", "Goodbye."], constitution=name)
    assert grades == cai.grade(rows, ["Hello.", "Goodbye."], constitution=name)
    assert {grade.class_ for grade in grades} == {None}


def test_models_and_constitutions_may_be_opened_before() -> None:
    lm, constitution = cai.open_lm("fake:brief"), cai.load_constitution("harmless")
    file = load.SHIPPED / "harmless.yaml"
    assert (
        cai.label(PAIRS, constitution=constitution, model=lm)
        == cai.label(PAIRS, constitution="harmless", model="fake:brief")
        == cai.label(PAIRS, constitution=str(file), model=lm)
        == cai.label(PAIRS, constitution=file, model=lm)
    )
    scores = cai.evaluate(PROMPTS, model=lm, constitution=constitution)
    assert scores == cai.evaluate(PROMPTS, model="fake:brief", constitution="harmless")
    assert {score.subject for score in scores} == {"fake:brief"}


def test_rows_are_in_order_and_equal_ones_cost_one_call() -> None:
    lm = FakeLM(lambda chat, seed: chat[-1].content, max_concurrency=2)
    prompts = [*TEXTS, TEXTS[0], "Say it again."]
    config = ReviseConfig(rounds=0)
    rows = cai.revise(prompts, constitution=ONE_PRINCIPLE, model=lm, config=config)
    assert [row.initial for row in rows] == prompts
    assert len(lm.calls) == 3


def test_a_constitution_without_a_rubric_revises_and_labels() -> None:
    [row] = cai.revise(["Do harm."], constitution=ONE_PRINCIPLE, model="fake:echo")
    assert row.rounds
    assert cai.label(PAIRS[:1], constitution=ONE_PRINCIPLE, model="fake:brief")[0].p_first


def test_no_rows_give_no_rows() -> None:
    assert cai.revise([], constitution="harmless", model="fake:echo") == []
    assert cai.label([], constitution="harmless", model="fake:echo") == []
    assert cai.grade([], [], constitution="harmless") == []
    assert cai.evaluate([], constitution="harmless", model="fake:echo") == []


def test_a_call_without_an_answer_is_a_row_with_a_reason() -> None:
    class Silent(FakeLM):
        async def sample(self, *arguments: Any, **options: Any) -> Any:
            raise UnansweredError("status 400")

        async def choice_logprobs(self, *arguments: Any, **options: Any) -> Any:
            raise UnansweredError("status 400")

    lm = Silent(lambda chat, seed: "")
    [revision] = cai.revise(TEXTS[:1], constitution="harmless", model=lm)
    assert revision.dropped == "no answer: status 400"
    [preference] = cai.label(PAIRS[:1], constitution="harmless", model=lm)
    assert preference.unscored == "no answer: status 400"


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    (
        "prompts: expected a list of prompts, found a single one",
        lambda: cai.revise("Hello.", constitution="harmless", model="fake:echo"),
    ),
    (
        "prompts: expected a list of prompts, found a single one",
        lambda: cai.evaluate(PROMPTS[0], constitution="harmless", model="fake:echo"),  # type: ignore[arg-type]
    ),
    (
        "prompts[1]: Prompt: Value error, chat must end with a non-empty user turn",
        lambda: cai.revise(["Hello.", " "], constitution="harmless", model="fake:echo"),
    ),
    (
        "prompts[0]: expected a Prompt or a text, found dict",
        lambda: cai.revise([{}], constitution="harmless", model="fake:echo"),  # type: ignore[list-item]
    ),
    (
        "pairs[0]: expected Pair, found Prompt",
        lambda: cai.label(PROMPTS, constitution="harmless", model="fake:echo"),  # type: ignore[arg-type]
    ),
    (
        "pairs: expected a list, found a single Pair",
        lambda: cai.label(PAIRS[0], constitution="harmless", model="fake:echo"),  # type: ignore[arg-type]
    ),
    (
        "responses: expected one text for each of 2 prompts, found 1",
        lambda: cai.grade(TEXTS, ["Hello."], constitution="harmless"),
    ),
    (
        "responses: expected one text for each of 2 prompts, found one text",
        lambda: cai.grade(TEXTS, "Hi", constitution="harmless"),
    ),
    (
        "responses[1]: expected str, found NoneType",
        lambda: cai.grade(TEXTS, ["Hello.", None], constitution="harmless"),  # type: ignore[list-item]
    ),
    (
        "constitution toy: no rubric in it to grade replies by",
        lambda: cai.grade(TEXTS, TEXTS, constitution=ONE_PRINCIPLE),
    ),
    (
        "harmles: no such file, and no shipped constitution of that name",
        lambda: cai.grade(TEXTS, TEXTS, constitution="harmles"),
    ),
    (
        "model 'fake:nobody': no such fake",
        lambda: cai.revise(TEXTS, constitution="harmless", model="fake:nobody"),
    ),
    (
        "model fake:echo: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID",
        lambda: cai.fit_preference_model(PAIRS, LABELS, model="fake:echo", output="reward"),
    ),
    (
        "model: training needs its spec",
        lambda: cai.fit_preference_model(
            PAIRS,
            LABELS,
            model=cai.open_lm("fake:echo"),  # type: ignore[arg-type]
            output="reward",
        ),
    ),
    (
        "is there already: give another output, or remove it",
        lambda: cai.fit_preference_model(PAIRS, LABELS, model="smollm2", output=Path(__file__)),
    ),
    (
        "ppo.critic: reward starts the critic as a preference model, and there is none",
        lambda: cai.PPOTrainer.from_pretrained("smollm2", print, PPOConfig(critic="reward")),  # type: ignore[arg-type]
    ),
]


@pytest.mark.parametrize(("message", "call"), REFUSED)
def test_errors_are_one_line(message: str, call: Callable[[], Any]) -> None:
    for attempt in (call, lambda: in_running_loop(call)):
        with pytest.raises(CaiError) as refused:
            attempt()
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


def test_labels_of_other_pairs_and_of_no_pair(tiny_model: Path, tmp_path: Path) -> None:
    model = f"local:{tiny_model}"
    for labels, message in ((LABELS, "a label for pair"), ([], "no labelled pair")):
        with pytest.raises(CaiError, match=message) as refused:
            cai.fit_preference_model(PAIRS[1:], labels, model=model, output=tmp_path / "out")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "out").exists()


# ---- event loops ----


def test_calls_inside_a_running_loop_give_the_same() -> None:
    calls: list[Callable[[], Any]] = [
        lambda: cai.revise(PROMPTS, constitution="harmless", model="fake:echo"),
        lambda: cai.label(PAIRS, constitution="harmless", model="fake:brief"),
        lambda: cai.grade(TEXTS, TEXTS, constitution="harmless"),
        lambda: cai.evaluate(PROMPTS, constitution="harmless", model="fake:polite"),
    ]
    for call in calls:
        assert in_running_loop(call) == call()


def test_a_local_model_serves_one_loop_after_another(tiny_model: Path) -> None:
    lm = cai.open_lm(f"local:{tiny_model}")
    config = EvalConfig(max_tokens=4)

    def call() -> list[Score]:
        return cai.evaluate(PROMPTS, model=lm, constitution="harmless", config=config)

    expected = call()
    assert in_running_loop(call) == call() == expected


def test_an_error_inside_a_running_loop_is_the_error_itself() -> None:
    async def work() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        in_running_loop(lambda: run_sync(work()))


def test_an_interrupted_wait_cancels_the_work() -> None:
    """Ctrl-C in a notebook: the wait ends at once, and so does the work in the other thread."""
    ended: list[str] = []

    async def work() -> None:
        try:
            threading.Timer(0.2, interrupt).start()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def notebook() -> None:
        run_sync(work())

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    loop = asyncio.new_event_loop()  # asyncio.run has a handler of SIGINT of its own
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(notebook())
    finally:
        loop.close()
    assert ended == ["cancelled"]
    assert time.monotonic() - start < 30


# ---- the examples of the docstrings ----

DOCUMENTED = [*(getattr(api, name) for name in api.__all__ if name != "open_lm")]


@pytest.mark.parametrize("function", DOCUMENTED, ids=lambda function: function.__name__)
def test_examples_of_docstrings(
    function: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a user types them; `smollm2` is the tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_files, "embedded_model", lambda: tiny_model)
    text = inspect.getdoc(function)
    assert text is not None
    example = doctest.DocTestParser().get_doctest(text, {}, function.__name__, None, None)
    assert example.examples, "every public function has an example"
    report: list[str] = []
    doctest.DocTestRunner().run(example, out=report.append)
    assert report == []

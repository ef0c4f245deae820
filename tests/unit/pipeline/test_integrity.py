"""Artefacts that are not as their stage left them, settings that are refused, rows to ask again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
from cli_runner import RUN, Capture, run_command, run_file

from cai.artifacts import (
    EVAL,
    EVALUATION_SCORES,
    EVALUATIONS,
    FILES,
    FINISHED_WITH,
    STAGES,
    TENSORBOARD,
)
from cai.cli.runs import _print_stage
from cai.constitution import load_constitution
from cai.errors import StoreError, TransientError, UnansweredError, is_passing
from cai.lm.fake import FakeLM
from cai.modeling import memory
from cai.pipeline import context, evaluation_stages
from cai.pipeline.config import ResolvedRun, load_run, save_run
from cai.pipeline.context import RunContext, open_run
from cai.pipeline.runner import run_stages
from cai.pipeline.saved_settings import ARTEFACT_OF, DECIDES
from cai.records import Chat, Pair, Preference, Prompt, Revision
from cai.store import (
    Manifest,
    append_rows,
    begin_artifact,
    check_content,
    content_digest,
    finish_artifact,
    manifest_path,
    read_manifest,
    read_rows,
)

UNRECORDED = (TENSORBOARD, EVAL, EVALUATIONS, EVALUATION_SCORES)
"""Without a manifest: working files, and scores that are written anew each time."""
RECORDED = [name for name in FILES if name not in UNRECORDED]


load_once = lru_cache(load_constitution)


@pytest.fixture(autouse=True)
def constitution_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs in this file share a constitution, and collect no garbage: both take a while."""
    monkeypatch.setattr(memory, "release_memory", lambda: None)
    monkeypatch.setattr(context, "load_constitution", load_once)


def toy_context(folder: Path, **settings: object) -> RunContext:
    file = run_file(folder)
    pairs = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return open_run(
        load_run(file, [pair.replace("__", ".") for pair in pairs]),
        lambda stage: lambda done, total: None,
    )


def walk(ctx: RunContext, *stages: str, accept: tuple[str, ...] = ()) -> None:
    run_stages(ctx, stages, lambda stage, seconds: None, accept)


def finished_folder(folder: Path) -> RunContext:
    """A run's context, with every artefact made up and finished."""
    ctx = toy_context(folder)
    ctx.resolved.folder.mkdir()
    for name in RECORDED:
        path = ctx.path(name)
        if path.suffix:
            path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n')
        else:
            (path / "checkpoints").mkdir(parents=True)
            (path / "checkpoints" / "state").write_bytes(b"of no more use")
            (path / "weights").write_bytes(bytes(1000))
            (path / "metrics.jsonl").write_text("1\n2\n3\n")
    for stage, name in ARTEFACT_OF.items():
        begin_artifact(ctx.path(name), stage, {"seed": "0"})
        others = [ctx.path(other) for other, owner in FINISHED_WITH.items() if owner == name]
        finish_artifact(ctx.path(name), *others, rows=3)
    shutil.rmtree(ctx.path("60-policy") / "checkpoints")
    return ctx


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [halve, empty, flip_a_byte])
@pytest.mark.parametrize("name", RECORDED)
def test_damage_is_noticed_and_can_be_accepted(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """Every artefact, when a later stage wants it and when its own stage is run again.

    The message names the file; accepted by name, it is taken.
    """
    ctx = finished_folder(tmp_path)
    for every in RECORDED:
        assert ctx.require(every) == ctx.path(every)
    path = ctx.path(name)
    damage(path if path.is_file() else path / "weights")
    owner = ctx.path(FINISHED_WITH.get(name, name))
    stage = next(stage for stage, made in ARTEFACT_OF.items() if made == owner.name)
    accept = rf"{name}: not as the stage {stage} left it: .* cai run … --accept {name}, "
    with pytest.raises(StoreError, match=accept) as caught:
        ctx.require(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=accept):
        ctx.begin(owner, stage, {"seed": "0"})
    ctx.accept_content(name)
    assert ctx.require(name) == path
    assert ctx.begin(owner, stage, {"seed": "0"})


@pytest.mark.parametrize("change", ["shortened metrics", "file added", "file removed"])
def test_every_file_of_a_folder_counts(tmp_path: Path, change: str) -> None:
    ctx = finished_folder(tmp_path)
    folder = ctx.path("60-policy")
    if change == "shortened metrics":
        (folder / "metrics.jsonl").write_text("1\n2\n")
    elif change == "file added":
        (folder / "more").touch()
    else:
        (folder / "weights").unlink()
    with pytest.raises(StoreError, match="60-policy: not as the stage ppo left it"):
        ctx.require("60-policy")
    with pytest.raises(StoreError, match="60-policy: not as the stage ppo left it"):
        walk(ctx, "report")


def test_a_manifest_without_digests_is_accepted(tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    ctx = finished_folder(tmp_path)
    for name in ARTEFACT_OF.values():
        file = manifest_path(ctx.path(name))
        recorded = json.loads(file.read_text())
        del recorded["content"]
        file.write_text(json.dumps(recorded))
    halve(ctx.path("10-revisions.jsonl"))
    assert ctx.require("10-revisions.jsonl").exists()
    later = {"seed": "0", "tokenizer": "x", "http.prefill": "False"}
    assert ctx.begin(ctx.path("00-prompts.jsonl"), "prompts", later)


def test_a_companion_that_is_missing_is_made_again(tmp_path: Path) -> None:
    ctx = toy_context(tmp_path)
    walk(ctx, "prompts")
    held_out = ctx.path("01-held-out.jsonl").read_bytes()
    ctx.path("01-held-out.jsonl").unlink()
    walk(ctx, "prompts")
    assert ctx.path("01-held-out.jsonl").read_bytes() == held_out


def test_an_edit_by_hand_on_the_command_line(capsys: Capture, tmp_path: Path) -> None:
    file = run_file(tmp_path)
    assert run_command(capsys, "run", file, "--until", "revise").code == 0
    revisions = tmp_path / "out/10-revisions.jsonl"
    lines = revisions.read_text().splitlines(keepends=True)
    revisions.write_text("".join(lines[1:]))
    result = run_command(capsys, "run", file, "--until", "revise")
    assert result.code == 2
    assert "10-revisions.jsonl: not as the stage revise left it" in result.err
    assert "Traceback" not in result.err
    accept = ("--until", "revise", "--accept", "10-revisions.jsonl")
    assert run_command(capsys, "run", file, *accept).code == 0
    assert run_command(capsys, "run", file, "--until", "revise").code == 0
    error = run_command(capsys, "run", file, "--accept", "notes.txt").usage_error
    assert error.startswith("--accept notes.txt: no artefact of that name; they are 00-prompts")
    error = run_command(capsys, "run", file, "--accept", "20-sft").usage_error
    assert error.endswith("20-sft: nothing to accept: no stage has finished it")


def test_a_digest_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = content_digest(path)
    with monkeypatch.context() as patch:
        patch.setattr("cai.store._digest_of_files", lambda *_: pytest.fail("read again"))
        assert content_digest(path) == first
    path.write_bytes(b"three")
    assert content_digest(path) != first
    check_content(path, Manifest(stage="s", provenance={}, versions={}))


# ---- settings that are refused ----


def saved(ctx: RunContext) -> dict[str, object]:
    settings: dict[str, object] = json.loads(ctx.path("run.json").read_text())["run"]
    return settings


@pytest.mark.parametrize("stages", [("prompts",), ("prompts", "revise"), ("ppo",), STAGES])
@pytest.mark.parametrize(
    ("setting", "value"),
    [("reward_weights__pm", 77.0), ("ppo__num_updates", 7), ("reward__learning_rate", 0.5)],
)
def test_refused_settings_are_not_saved(
    tmp_path: Path, stages: tuple[str, ...], setting: str, value: float
) -> None:
    """What `serve-reward` reads stays what the finished stages used, whatever was run."""
    ctx = finished_folder(tmp_path)
    save_run(ctx.resolved)
    before = ctx.path("run.json").read_bytes()
    messages: list[str] = []
    changed = toy_context(tmp_path, **{setting: value})
    changed.notify = messages.append
    try:
        walk(changed, *stages)
    except StoreError as error:
        assert "made with another" in str(error)  # noqa: PT017
    else:
        assert "run.json: left as it was, because" in messages[0]
    assert ctx.path("run.json").read_bytes() == before


@pytest.mark.parametrize("setting", ["seed", "held_out", "model"])
def test_settings_are_saved_when_their_stages_accept_them(tmp_path: Path, setting: str) -> None:
    value = {"seed": 5, "held_out": 0.3, "model": "fake:echo"}[setting]
    ctx = toy_context(tmp_path)
    walk(ctx, "prompts", "revise")
    changed = toy_context(tmp_path, **{setting: value})
    with pytest.raises(StoreError, match="made with another"):
        walk(changed, "prompts", "revise")
    assert saved(ctx)[setting] != value
    for path in ctx.resolved.folder.glob("[01]*"):
        path.unlink()
    walk(changed, "prompts", "revise")
    assert saved(ctx)[setting] == value


def test_settings_of_stages_that_left_nothing_are_saved_at_once(tmp_path: Path) -> None:
    walk(toy_context(tmp_path), "prompts")
    changed = toy_context(tmp_path, ppo__num_updates=9, prices__prompt=2.0)
    walk(changed, "prompts")
    ppo = saved(changed)["ppo"]
    assert isinstance(ppo, dict)
    assert ppo["num_updates"] == 9


def test_every_setting_is_listed() -> None:
    from cai.pipeline.config import Run

    fields = set(Run.model_fields) | set(ResolvedRun.model_fields) - {"run"}
    assert fields - {"seed", "folder"} == set(DECIDES)


@pytest.mark.parametrize(
    ("stage", "setting", "value", "key"),
    [
        ("revise", "http__allow", ["length"], "http.allow"),
        ("revise", "http__prefill", False, "http.prefill"),
        ("label", "http__prefill", False, "http.prefill"),
        ("eval", "http__allow", ["length"], "http.allow"),
        ("ppo", "http__prefill", False, "http.prefill"),
    ],
)
def test_settings_of_answers_are_provenance(
    tmp_path: Path, stage: str, setting: str, value: object, key: str
) -> None:
    """Of endpoints only, and defaults are not recorded: as in earlier manifests."""
    assert toy_context(tmp_path).answer_settings("http://x/v1#m") == {}
    ctx = toy_context(tmp_path, **{setting: value})
    assert list(ctx.answer_settings("smollm2", "http://x/v1#m")) == [key]
    assert ctx.answer_settings("fake:polite") == {}
    assert stage in DECIDES["http"]


def test_the_tokenizer_of_a_limit_is_provenance(tmp_path: Path) -> None:
    ctx = toy_context(tmp_path, hygiene__max_tokens=100)
    walk(ctx, "prompts")
    manifest = read_manifest(ctx.path("00-prompts.jsonl"))
    assert manifest is not None
    assert manifest.provenance["tokenizer"] == "4 characters a token"
    (tmp_path / "b").mkdir()
    walk(toy_context(tmp_path / "b"), "prompts")
    other = read_manifest(tmp_path / "b/out/00-prompts.jsonl")
    assert other is not None
    assert "tokenizer" not in other.provenance


# ---- rows to ask again ----


class Flaky(FakeLM):
    """A fake whose endpoint fails for every third chat, until it is mended."""

    def __init__(self, passing: bool) -> None:
        super().__init__(lambda chat, seed: "Fine.", lambda chat, choices: [0.5, 0.0], name="flaky")
        self.passing, self.mended, self.calls_made = passing, False, 0

    def check(self, chat: Chat) -> None:
        self.calls_made += 1
        text = " ".join(message.content for message in chat)
        if not self.mended and any(f" {i}" in text for i in (0, 3)):
            try:
                raise TransientError("http://x: status 503") if self.passing else ValueError
            except Exception as error:
                raise UnansweredError("http://x: out of order") from error

    async def sample(self, chat: Chat, **options: object) -> object:  # type: ignore[override]
        self.check(chat)
        return await super().sample(chat, **options)  # type: ignore[arg-type]

    async def choice_logprobs(  # type: ignore[override]
        self, chat: Chat, choices: list[str], *, prefill: str = ""
    ) -> list[float] | None:
        self.check(chat)
        return await super().choice_logprobs(chat, choices, prefill=prefill)


def to_labels(folder: Path, monkeypatch: pytest.MonkeyPatch, lm: FakeLM) -> RunContext:
    """Prompts, revisions, pairs that need no training, labels."""
    monkeypatch.setattr(context, "open_lm", lambda spec, http: lm)
    folder.mkdir(exist_ok=True)
    ctx = toy_context(folder)
    walk(ctx, "prompts", "revise")
    pairs = ctx.path("30-pairs.jsonl")
    if not pairs.exists():
        prompts = read_rows(ctx.path("00-prompts.jsonl"), Prompt)
        rows = [Pair(source=p.id, chat=p.chat, first="Yes.", second=f"No {p.id}") for p in prompts]
        append_rows(pairs, rows)
    walk(ctx, "label")
    return ctx


def test_unanswered_rows_are_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the outage the files are those of a run without one, and nothing else is asked."""
    lm = Flaky(passing=True)
    ctx = to_labels(tmp_path / "a", monkeypatch, lm)
    unanswered = [
        row
        for name, kind in (("10-revisions.jsonl", Revision), ("40-preferences.jsonl", Preference))
        for row in read_rows(ctx.path(name), kind)
        if is_passing(getattr(row, "dropped", None) or getattr(row, "unscored", None))
    ]
    assert unanswered
    for stage in ("revise", "label"):
        assert "rows null: " in ctx.nulls[stage]
        assert "no answer for now: http://x: out of order" in ctx.nulls[stage]
    lm.mended = True
    again = to_labels(tmp_path / "a", monkeypatch, lm)
    fresh = to_labels(tmp_path / "b", monkeypatch, lm)
    for name in ("10-revisions.jsonl", "40-preferences.jsonl"):
        assert again.path(name).read_bytes() == fresh.path(name).read_bytes()
    names = [{p.name for p in ctx.resolved.folder.iterdir()} for ctx in (again, fresh)]
    assert names[0] == names[1]
    assert "no answer" not in again.nulls["label"]


def test_unanswered_evaluation_replies_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no input of another stage: at any later time."""
    lm = Flaky(passing=True)
    monkeypatch.setattr(context, "open_lm", lambda spec, http: lm)
    monkeypatch.setattr(evaluation_stages, "add_rewards", lambda ctx, replies: replies)
    monkeypatch.setattr(evaluation_stages, "measure_policy_kl", lambda ctx, prompts: [])

    def evaluated(folder: Path) -> RunContext:
        folder.mkdir(exist_ok=True)
        ctx = toy_context(folder, held_out=0.8)
        walk(ctx, "prompts")
        for name in ("20-sft", "50-reward", "60-policy"):
            ctx.path(name).mkdir(exist_ok=True)
            (ctx.path(name) / "weights").write_bytes(b"w")
        walk(ctx, "eval")
        return ctx

    first = evaluated(tmp_path / "a")
    assert "no answer for now: http://x: out of order" in first.nulls["eval"]
    lm.mended, lm.calls_made = True, 0
    again = evaluated(tmp_path / "a")
    rows = int(again.nulls.get("eval") == "" and lm.calls_made)
    assert 0 < rows < 3 * 8
    fresh = evaluated(tmp_path / "b")
    for name in ("70-replies.jsonl", "70-scores.jsonl"):
        assert again.path(name).read_bytes() == fresh.path(name).read_bytes()
    calls = lm.calls_made
    evaluated(tmp_path / "a")
    assert lm.calls_made == calls


def test_rows_that_will_not_pass_are_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = Flaky(passing=False)
    ctx = to_labels(tmp_path, monkeypatch, lm)
    assert "no answer: http://x" in ctx.nulls["revise"]
    calls = lm.calls_made
    again = to_labels(tmp_path, monkeypatch, lm)
    assert lm.calls_made == calls
    assert "rows null: " in again.nulls["revise"], "said again when the stage is skipped"


@pytest.mark.parametrize(("stage", "next_artefact"), [("revise", "20-sft"), ("label", "50-reward")])
def test_nothing_is_asked_again_once_the_next_stage_has_used_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, next_artefact: str
) -> None:
    lm = Flaky(passing=True)
    ctx = to_labels(tmp_path, monkeypatch, lm)
    begin_artifact(ctx.path(next_artefact), "next", {})
    calls = lm.calls_made
    again = toy_context(tmp_path)
    walk(again, stage)
    assert lm.calls_made == calls
    assert f"to ask again, delete {next_artefact}" in again.nulls[stage]


def test_the_line_of_a_stage_names_its_null_rows(capsys: Capture) -> None:
    _print_stage("label", 1.0, "2 of 9 rows null: 2 no answer")
    assert capsys.readouterr().err.rstrip().endswith("GiB   2 of 9 rows null: 2 no answer")


def test_a_run_with_the_shipped_settings_says_nothing_of_it(
    capsys: Capture, tmp_path: Path
) -> None:
    result = run_command(capsys, "run", run_file(tmp_path, RUN), "--until", "prompts")
    assert "null" not in result.err

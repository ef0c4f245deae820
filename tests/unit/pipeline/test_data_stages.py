"""The stage `prompts` of a run: filters, counts, the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cli_runner import Capture, run_command
from interruptions import no_progress
from json_lines import write_lines

from cai import store
from cai.data.readers import prompt_rows
from cai.errors import TransientError, UnansweredError, is_passing
from cai.lm.base import Sample
from cai.lm.fake import FakeLM
from cai.pipeline.config import load_run
from cai.pipeline.context import open_run
from cai.pipeline.data_stages import pair
from cai.pipeline.runner import run_stages
from cai.records import Pair


def test_a_run_uses_the_prompts_that_pass_the_filters(capsys: Capture, tmp_path: Path) -> None:
    """Ten prompts, one of them an evaluation text and one too long.

    The manifest has the counts and a digest of the settings.
    """
    lines = [{"prompt": f"question number {i}", "kind": "benign"} for i in range(8)]
    lines += [
        {"prompt": "this one is asked elsewhere", "kind": "benign"},
        {"prompt": "w " * 90, "kind": "benign"},
    ]
    write_lines(tmp_path / "prompts.jsonl", *lines)
    write_lines(tmp_path / "eval.jsonl", {"prompt": "This one is asked ELSEWHERE?"})
    (tmp_path / "run.yaml").write_text(
        "name: x\nmodel: fake:echo\nconstitution: harmless\nprompts: [prompts.jsonl]\n"
        f"held_out: 0.5\nfolder: {tmp_path}/out\n"
        "hygiene: {against: [eval.jsonl], max_tokens: 40}\n",
        encoding="utf-8",
    )
    command = ("run", tmp_path / "run.yaml", "--until", "prompts")
    assert run_command(capsys, *command).code == 0
    train, held = (
        list(prompt_rows(tmp_path / "out" / name))
        for name in ("00-prompts.jsonl", "01-held-out.jsonl")
    )
    assert (len(train), len(held)) == (4, 4)
    manifest = json.loads(
        (tmp_path / "out" / "00-prompts.manifest.json").read_text(encoding="utf-8")
    )
    assert manifest["counts"] == {"train": 4, "held_out": 4, "in an evaluation": 1, "too long": 1}
    assert run_command(capsys, *command, "--set", "hygiene.max_tokens=41").code == 2


def prompt_sets(capsys: Capture, folder: Path, *settings: str) -> tuple[set[str], set[str]]:
    """Ids of the training and the evaluation prompts of a run over 40 prompts."""
    lines = [{"prompt": f"question number {i}", "kind": "benign"} for i in range(40)]
    write_lines(folder / "prompts.jsonl", *lines)
    (folder / "run.yaml").write_text(
        "name: x\nmodel: fake:echo\nconstitution: harmless\nprompts: [prompts.jsonl]\n"
        "held_out: 0.3\n",
        encoding="utf-8",
    )
    out = folder / f"out{len(list(folder.glob('out*')))}"
    command = ["run", folder / "run.yaml", "--until", "prompts", "--set", f"folder={out}"]
    for setting in settings:
        command += ["--set", setting]
    assert run_command(capsys, *command).code == 0
    train, evaluated = (
        {prompt.id for prompt in prompt_rows(out / name)}
        for name in ("00-prompts.jsonl", "01-held-out.jsonl")
    )
    return train, evaluated


def test_settings_are_chosen_on_prompts_that_no_report_uses(
    capsys: Capture, tmp_path: Path
) -> None:
    """40 prompts: 12 held out, 8 for choosing settings, 20 for training."""
    train, held_out = prompt_sets(capsys, tmp_path, "dev=0.2")
    same_train, dev = prompt_sets(capsys, tmp_path, "dev=0.2", "evaluate_on=dev")
    assert (len(train), len(dev), len(held_out)) == (20, 8, 12)
    assert train == same_train
    assert train | dev | held_out == train ^ dev ^ held_out, "no prompt is in two of them"


def test_runs_of_all_seeds_are_evaluated_on_the_same_prompts(
    capsys: Capture, tmp_path: Path
) -> None:
    assert prompt_sets(capsys, tmp_path) == prompt_sets(capsys, tmp_path, "seed=5")


def test_shares_of_prompts_must_leave_some_for_training(capsys: Capture, tmp_path: Path) -> None:
    prompt_sets(capsys, tmp_path)
    command = ("run", tmp_path / "run.yaml", "--until", "prompts", "--set")
    assert "held_out, dev and validation take 1.1" in run_command(capsys, *command, "dev=0.8").err
    assert "evaluate_on: dev needs" in run_command(capsys, *command, "evaluate_on=dev").err


def test_a_category_for_self_correction_must_be_there(capsys: Capture, tmp_path: Path) -> None:
    prompt_sets(capsys, tmp_path)
    command = ("revise", tmp_path / "run.yaml", "--set", f"folder={tmp_path}/out0", "--set")
    result = run_command(capsys, *command, "revise.self_correction=[age]")
    assert result.code == 2
    assert "no training prompt is of the category age" in result.err


def test_pairs_are_of_the_model_that_is_named(capsys: Capture, tmp_path: Path) -> None:
    """Without a fine-tuned model in the folder. Another model's pairs are other pairs."""
    prompt_sets(capsys, tmp_path)
    out = tmp_path / "out0"
    command = ("pair", tmp_path / "run.yaml", "--set", f"folder={out}", "--set")
    missing = run_command(capsys, *command, "pair.replies=2")
    assert missing.code == 2
    assert "20-sft: not made yet" in missing.err
    subject = "pair.subject=fake:polite"
    assert run_command(capsys, *command, subject).code == 0
    rows = [json.loads(line) for line in (out / "30-pairs.jsonl").read_text().splitlines()]
    assert rows[0]["first"] == "I'm sorry, but I can't help with that."
    manifest = json.loads((out / "30-pairs.manifest.json").read_text())
    assert "subject" in manifest["provenance"]
    assert "input 20-sft" not in manifest["provenance"]
    assert run_command(capsys, *command, subject).code == 0
    stale = run_command(capsys, *command, "pair.subject=fake:echo")
    assert stale.code == 2
    assert "subject" in stale.err


def test_pairs_without_an_answer_are_drawn_again(tmp_path: Path) -> None:
    """While there are no labels of them yet."""
    write_lines(
        tmp_path / "prompts.jsonl",
        *({"prompt": f"question number {i}", "kind": "benign"} for i in range(8)),
    )
    (tmp_path / "run.yaml").write_text(
        "name: x\nmodel: fake:echo\nconstitution: harmless\nprompts: [prompts.jsonl]\n"
        f"held_out: 0.5\nfolder: {tmp_path}/out\npair: {{subject: 'fake:polite'}}\n",
        encoding="utf-8",
    )
    ctx = open_run(load_run(tmp_path / "run.yaml"), no_progress)
    run_stages(ctx, ["prompts"], lambda stage, seconds: None)
    spec = "fake:polite"
    answers = ctx.lm(spec)

    class Silent(FakeLM):
        async def sample(self, *args: Any, **settings: Any) -> Sample:
            raise UnansweredError("the server is busy") from TransientError("busy")

    ctx.models[spec] = Silent(lambda chat, seed: "", name="polite")
    pair(ctx)
    file = ctx.path("30-pairs.jsonl")
    assert all(is_passing(row.unscored) for row in store.read_rows(file, Pair))
    ctx.models[spec] = answers
    pair(ctx)
    assert [row.unscored for row in store.read_rows(file, Pair)] == [None] * 4

"""The stage `prompts` of a run: filters, counts, the manifest."""

from __future__ import annotations

import json
from pathlib import Path

from cli_runner import Capture, run_command
from json_lines import write_lines

from cai.data.readers import prompt_rows


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

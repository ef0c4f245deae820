"""The `clean` command, and the filtered prompts of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_toys import SENTENCE, prompt

from cai.cli import main
from cai.data.readers import prompt_rows
from cai.data.writers import write_prompts


def exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return int(stop.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with a count for each reason, a file of the kept prompts, one explanation."""
    prompts = [
        prompt("a b c"),
        prompt("a b c", kind="benign"),
        prompt(SENTENCE),
        prompt(SENTENCE.replace("warm", "hot")),
    ]
    write_prompts(tmp_path / "in.jsonl", prompts)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    assert exit_code("clean", source, "--output", output, "--near", "0.6") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, count in (("kept", 2), ("repeated", 1)):
        assert any(name in line and f" {count} " in line for line in lines)
    assert list(prompt_rows(output)) == [prompts[0], prompts[2]]
    assert exit_code("clean", source, "--near", "0.6", "--explain", prompts[3].id) == 0
    explanation = f"{prompts[3].id}: nearly repeated (as {prompts[2].id}, row 3)\n"
    assert capsys.readouterr().out == explanation


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "say where what stays goes"),
        (["--output", "o.jsonl", "--near", "0.1"], "--near: Input should be greater than 0.5"),
        (
            ["--output", "o.jsonl", "--pii", "hide"],
            "--pii: Input should be 'keep', 'mask' or 'drop'",
        ),
        (["--explain", "none"], "--explain none: no prompt has this id"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    write_prompts(tmp_path / "in.jsonl", [prompt("a")])
    assert exit_code("clean", tmp_path / "in.jsonl", *arguments) == 2
    assert why in capsys.readouterr().err


def test_a_run_uses_what_hygiene_lets_through(tmp_path: Path) -> None:
    """Ten prompts, one of them an evaluation text and one too long.

    The manifest has the counts and a digest of the settings.
    """
    lines = [{"prompt": f"question number {i}", "kind": "benign"} for i in range(8)]
    lines += [
        {"prompt": "this one is asked elsewhere", "kind": "benign"},
        {"prompt": "w " * 90, "kind": "benign"},
    ]
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    (tmp_path / "eval.jsonl").write_text(
        json.dumps({"prompt": "This one is asked ELSEWHERE?"}) + "\n", encoding="utf-8"
    )
    (tmp_path / "run.yaml").write_text(
        "name: x\nmodel: fake:echo\nconstitution: harmless\nprompts: [prompts.jsonl]\n"
        f"held_out: 0.5\nfolder: {tmp_path}/out\n"
        "hygiene: {against: [eval.jsonl], max_tokens: 40}\n",
        encoding="utf-8",
    )
    command = ("run", tmp_path / "run.yaml", "--until", "prompts")
    assert exit_code(*command) == 0
    train, held = (
        list(prompt_rows(tmp_path / "out" / name))
        for name in ("00-prompts.jsonl", "01-held-out.jsonl")
    )
    assert (len(train), len(held)) == (4, 4)
    manifest = json.loads(
        (tmp_path / "out" / "00-prompts.manifest.json").read_text(encoding="utf-8")
    )
    assert manifest["counts"] == {"train": 4, "held_out": 4, "in an evaluation": 1, "too long": 1}
    assert exit_code(*command, "--set", "hygiene.max_tokens=41") == 2


def test_a_missing_evaluation_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n', encoding="utf-8")
    text = (
        "name: x\nconstitution: harmless\nprompts: [p.jsonl]\nhygiene:\n  against: [none.jsonl]\n"
    )
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    assert exit_code("run", tmp_path / "run.yaml") == 2
    assert (
        f"run.yaml:5: hygiene.against: no such file: none.jsonl (looked for {tmp_path}/none.jsonl)"
        in capsys.readouterr().err
    )

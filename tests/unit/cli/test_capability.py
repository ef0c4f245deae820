"""`cai capability RUN`: the commands of other tools for the models of a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from cli_runner import Capture, run_command

from cai.pipeline.config import load_run, save_run


def model(folder: Path, template: str | None = "{{ messages }}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    settings = {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    base = model(tmp_path / "base, new")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi"}\n', encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        f"name: toy\nmodel: 'local:{base}'\nprompts: [prompts.jsonl]\nfolder: {tmp_path / 'run'}\n"
        "constitution: harmless\n",
        encoding="utf-8",
    )
    model(tmp_path / "run" / "20-sft")
    save_run(load_run(tmp_path / "run.yaml"))
    return tmp_path / "run"


def commands(script: str) -> list[list[str]]:
    return [shlex.split(line) for line in script.splitlines() if line and line[0] not in "#s"]


def test_each_model_gets_a_command_of_each_tool(run: Path, capsys: Capture) -> None:
    done = run_command(
        capsys, "capability", run, "--tasks", "arc_easy, mmlu", "--inspect-tasks", "cai/refusal"
    )
    assert done.code == 0
    assert done.err == f"left out: policy: {run / '60-policy'}: not there yet\n"
    base, inspect_base, sft, _, read = commands(done.out)
    assert base[:5] == [
        "lm_eval",
        "--model",
        "hf",
        "--model_args",
        json.dumps({"pretrained": str(run.parent / "base, new")}),
    ]
    assert sft[4] == f"pretrained={run / '20-sft'}"
    assert base[5:9] == [
        "--tasks",
        "arc_easy,mmlu",
        "--apply_chat_template",
        "--fewshot_as_multiturn",
    ]
    assert "--log_samples" in base
    assert sft[-1] == str(run / "70-capability" / "lm-eval" / "sft")
    assert inspect_base[:5] == ["inspect", "eval", "cai/refusal", "--model", "hf/base"]
    assert read == ["cai", "capability", "--read", str(run / "70-capability")]


def test_without_a_template_in_one_model_none_is_used(run: Path, capsys: Capture) -> None:
    model(run / "60-policy", template=None)
    done = run_command(capsys, "capability", run, "--tasks", "mmlu")
    assert "--apply_chat_template" not in done.out
    assert "not all models have one" in done.err
    done = run_command(capsys, "capability", run, "--tasks", "mmlu", "--chat-template")
    assert done.out.count("--apply_chat_template") == 3


def test_the_script_is_a_file(run: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "run.sh"
    arguments = ("capability", run, "--tasks", "mmlu", "--limit", 5, "--output", output)
    assert run_command(capsys, *arguments).out == f"{output}: run it with sh\n"
    assert output.read_text(encoding="utf-8").count("--limit 5") == 2


def test_wrong_use_is_one_line(run: Path, capsys: Capture) -> None:
    assert "name the tasks" in run_command(capsys, "capability", run).usage_error
    text = run_command(capsys, "capability", "--read", run, "--tasks", "mmlu").usage_error
    assert text.startswith("--read takes results as they are")
    assert "one run" in run_command(capsys, "capability", run, run, "--tasks", "a").usage_error
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))
    settings["run"]["model"] = "fake:polite"
    (run / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    assert "neither" in run_command(capsys, "capability", run, "--tasks", "a").usage_error

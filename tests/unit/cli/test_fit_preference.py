"""The command `cai fit-reward`: training, cross-validation, wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cai.cli import app
from cai.errors import CaiError
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import chat_of
from cai.reward.preference_model import PreferenceModel


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fit_reward(model: Path, file: Path, output: Path) -> list[str]:
    """Arguments of the command."""
    return [
        "fit-reward",
        "--model",
        f"local:{model}",
        "--input",
        str(file),
        "--output",
        str(output),
    ]


def test_the_command_trains_measures_and_saves(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"{who} {i}",
            "first": "z" * (1 + i % 3),
            "second": "a" * (1 + i % 3),
            "p_first": 1.0,
            "who": who,
        }
        for who in ("x", "y", "w")
        for i in range(8)
    ]
    file = lines(tmp_path / "mine.jsonl", *rows)
    arguments = fit_reward(tiny_model, file, tmp_path / "reward")
    for setting in ("epochs=4", "learning_rate=0.01", "lora_rank=4"):
        arguments += ["--set", setting]
    result = CliRunner().invoke(app, [*arguments, "--folds", "3", "--by", "who"])
    assert result.exit_code == 0, result.output
    assert "all" in result.output
    assert "held-out reward.agreement: 1.000" in result.output
    metrics = json.loads((tmp_path / "reward" / "metrics.json").read_text())
    assert metrics["train_pairs"] == 19  # 24 prompts less a fifth
    base = with_adapter(load_model(str(tiny_model)), "policy", 2)
    model = PreferenceModel.load(base, load_renderer(str(tiny_model)), tmp_path / "reward")
    chat = chat_of(("user", "x 99"))
    good, bad = model.score([model.rows(chat, "zz"), model.rows(chat, "aa")])
    assert good > bad
    assert "exists already" in str(CliRunner().invoke(app, arguments).exception)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "ranks=4"], "--set ranks"),
        (["--set", "epochs=["], "is not YAML"),
        (["--set", "epochs=!!timestamp 2024-13-45"], "--set epochs"),
        (["--set", "epochs"], "expected KEY=VALUE"),
        (["--set", "label_share=0.5"], "no other pairs"),
        (["--model", "fake:brief"], "training needs weights"),
        (["--input", "gone.jsonl"], "gone.jsonl"),
    ],
)
def test_wrong_usage_is_one_line(
    more: list[str], message: str, tiny_model: Path, tmp_path: Path
) -> None:
    file = lines(tmp_path / "x.jsonl", {"prompt": "q", "first": "a", "second": "b", "p_first": 1})
    arguments = fit_reward(tiny_model, file, tmp_path / "out")
    result = CliRunner().invoke(app, [*arguments, *more])
    assert isinstance(result.exception, CaiError), result.exception
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_verdicts_of_two_people_on_one_prompt_are_on_one_side(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The judge is no part of the prompt: without the first one's prompts nothing is left."""
    rows = [
        {"prompt": f"{i}", "first": "z", "second": "a", "p_first": 1.0, "user": who}
        for who in ("ann", "bob")
        for i in range(3)
    ]
    file = lines(tmp_path / "x.jsonl", *rows)
    arguments = fit_reward(tiny_model, file, tmp_path / "out")
    result = CliRunner().invoke(app, [*arguments, "--folds", "2", "--by", "user"])
    assert "nothing is left to learn from" in str(result.exception)

"""The command `cai fit-reward`: training, cross-validation, wrong usage."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interruptions import Killed, killed_at
from typer.testing import CliRunner, Result
from writing_tools import tree

from cai.cli import app
from cai.errors import CaiError
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.records import chat_of
from cai.reward.preference_model import PreferenceModel
from cai.train.pair_loss import PairGradients


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


# ---- kills ----


def three_judges(path: Path) -> Path:
    """Eight labelled pairs each: two thirds are two steps an epoch, all but a fifth are three."""
    rows = [
        {"prompt": f"{who} {i}", "first": "z" * (1 + i % 3), "second": "a", "p_first": 0.9}
        | {"who": who}
        for who in ("x", "y", "w")
        for i in range(8)
    ]
    return lines(path, *rows)


class Fit:
    """The command with three folds, whose steps are counted and may be interrupted: four steps a
    fold, then six.
    """

    def __init__(self, model: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.model, self.file, self.patch = model, three_judges(folder / "in.jsonl"), patch
        self.steps = 0
        self.accumulate = PairGradients.accumulate

    def run(self, output: Path, *more: str, step: Callable[[], None] | None = None) -> Result:
        def counted(*arguments: Any) -> float:
            self.steps += 1
            if step is not None:
                step()
            return self.accumulate(*arguments)

        self.steps = 0
        self.patch.setattr(PairGradients, "accumulate", counted)
        arguments = fit_reward(self.model, self.file, output)
        for setting in ("epochs=2", "lora_rank=2", "learning_rate=0.01", "save_every=1"):
            arguments += ["--set", setting]
        return CliRunner().invoke(app, [*arguments, "--folds", "3", "--by", "who", *more])

    def kill(self, output: Path, call: int) -> None:
        """Kill it in a step; the first is 0."""
        with pytest.raises(Killed):
            self.run(output, step=killed_at(call, lambda: None))


@pytest.fixture
def fit(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    return Fit(tiny_model, tmp_path, monkeypatch)


def test_an_ended_fit_equals_an_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    """To the byte, table included, and no step is made twice: Ctrl-C in the third step, where no
    state is due; killed in the second fold and in the fourth step after the folds, with a state
    after each step.
    """
    expected, output = tmp_path / "expected", tmp_path / "out"
    printed = fit.run(expected).stdout
    assert fit.steps == 3 * 4 + 6

    def interrupt() -> None:
        if fit.steps == 3:
            signal.raise_signal(signal.SIGINT)

    assert fit.run(output, "--set", "save_every=100", step=interrupt).exit_code != 0
    assert [p.name for p in tmp_path.glob("out.partial/checkpoints/*/*")] == ["step-000003"]
    fit.kill(output, 3)
    fit.kill(output, 9)
    assert not output.exists()
    resumed = fit.run(output, "--set", "save_every=100")
    assert resumed.stdout == printed
    assert fit.steps == 18 - 3 - 3 - 9
    assert tree(output) == tree(expected)
    assert not output.with_name("out.partial").exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--seed", "1"), "--seed"),
        (("--set", "epochs=3"), "--set"),
        (("--by", "prompt"), "--folds"),
        (("--column", "second=first"), "--input"),
    ],
)
def test_another_training_does_not_go_on_with_a_killed_one(
    fit: Fit, tmp_path: Path, more: tuple[str, ...], named: str
) -> None:
    output = tmp_path / "out"
    fit.kill(output, 2)
    left = tree(tmp_path)
    refused = fit.run(output, *more)
    assert str(refused.exception) == (
        f"{output}.partial: holds an unfinished training with another {named}: go on with that, or"
        " remove this folder, or give another output"
    )
    assert tree(tmp_path) == left


def test_a_changed_input_is_another_training(fit: Fit, tmp_path: Path) -> None:
    fit.kill(tmp_path / "out", 2)
    lines(fit.file, {"prompt": "q", "first": "a", "second": "b", "p_first": 1})
    assert "with another --input: go on" in str(fit.run(tmp_path / "out").exception)


def test_a_fold_that_a_disk_has_torn_is_one_line(fit: Fit, tmp_path: Path) -> None:
    fit.kill(tmp_path / "out", 6)
    [measured] = tmp_path.glob("out.partial/checkpoints/fold-*.json")
    measured.write_text("[[1.0")
    error = str(fit.run(tmp_path / "out").exception)
    assert f"{measured}: not as it was written: remove it" in error
    assert "\n" not in error
    measured.unlink()
    assert fit.run(tmp_path / "out").exit_code == 0

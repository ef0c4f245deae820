"""What is longer than the model's window is left out and counted, never cut."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_runner import Capture, run_command, write_lines
from interruptions import Killed, quiet
from ppo_toys import CONFIG, fresh_trainer, with_settings

from cai.errors import TrainError
from cai.modeling.loading import window_of
from cai.records import Prompt, chat_of
from cai.train import sft as sft_module
from cai.train.sft import Example, SFTConfig, sft

WINDOW = 64
LONG = "x" * WINDOW


@pytest.fixture(scope="module")
def narrow_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with a window of 64 tokens."""
    folder = tmp_path_factory.mktemp("narrow") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = WINDOW
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def fit_reward(capsys: Capture, model: Path, source: Path, *more: object) -> Any:
    options = ("--model", f"local:{model}", "--input", source, "--output", source.parent / "out")
    return run_command(capsys, "fit-reward", *options, *more)


@pytest.mark.parametrize("field", ["prompt", "first", "second"])
def test_a_long_pair_is_left_out_of_the_preference_model(
    capsys: Capture, tmp_path: Path, narrow_model: Path, field: str
) -> None:
    rows = [
        {"prompt": f"{i}", "first": "a", "second": "b", "p_first": 1, "who": "xy"[i % 2]}
        for i in range(8)
    ]
    rows[0][field] = LONG
    source = write_lines(tmp_path / "in.jsonl", *rows)
    result = fit_reward(capsys, narrow_model, source, "--folds", 2, "--by", "who")
    assert result.code == 0, result.err
    assert f"{source}: 1 rows skipped: longer than the model's window of 64 tokens" in result.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["train_pairs"] == 6  # 7 prompts less a fifth


def test_nothing_fits_the_preference_model(
    capsys: Capture, tmp_path: Path, narrow_model: Path
) -> None:
    row = {"prompt": LONG, "first": "a", "second": "b", "p_first": 1}
    result = fit_reward(capsys, narrow_model, write_lines(tmp_path / "in.jsonl", row))
    assert result.code == 1
    assert result.err.startswith("cai: reward: none of 1 pairs fits the model's window of 64")


@pytest.mark.filterwarnings("ignore")
def test_sft_goes_by_the_window_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, narrow_model: Path
) -> None:
    """`max_length` allows it, but the model has no such window."""
    passed: list[Any] = []

    def catch(base: str, rows: list[Any], *rest: Any) -> Any:
        passed.extend(rows)
        raise Killed

    monkeypatch.setattr(sft_module, "build_trainer", catch)
    hello = chat_of(("user", "hi"))
    config = SFTConfig(max_length=512)
    with pytest.raises(Killed):
        sft(
            str(narrow_model),
            [Example(hello, "yes"), Example(hello, LONG)],
            config,
            tmp_path / "never",
            seed=0,
            progress=quiet,
        )
    assert len(passed) == 1
    with pytest.raises(TrainError, match="none of 1 examples fits into 64 tokens"):
        sft(
            str(narrow_model),
            [Example(hello, LONG)],
            config,
            tmp_path / "x",
            seed=0,
            progress=quiet,
        )


def test_ppo_leaves_long_prompts_and_texts_out(tmp_path: Path, narrow_model: Path) -> None:
    config = with_settings(CONFIG, num_updates=1)
    trainer = fresh_trainer(narrow_model, config)
    short, long = (Prompt(chat=chat_of(("user", text))) for text in ("hi", LONG))
    renderer = trainer.renderer
    texts = [(renderer.prompt_ids(short.chat), renderer.response_ids(text)) for text in ("a", LONG)]
    (metrics,) = trainer.train([short, long], tmp_path / "policy", texts)
    assert trainer.left_out == {"too_long_prompts": 1, "too_long_texts": 1}
    assert metrics["episodes"] == 8
    with pytest.raises(TrainError, match="none of 1 prompts fits the model's window of 64"):
        trainer.train([long], tmp_path / "other")


def test_a_prompt_that_just_fits_with_its_response_stays(
    tmp_path: Path, narrow_model: Path
) -> None:
    trainer = fresh_trainer(narrow_model, with_settings(CONFIG, num_updates=1))
    empty = len(trainer.renderer.prompt_ids(chat_of(("user", ""))))
    room = WINDOW - CONFIG.rollout.max_new_tokens - empty
    prompts = [Prompt(chat=chat_of(("user", "x" * n))) for n in (room, room + 1)]
    trainer.train(prompts, tmp_path / "policy")
    assert trainer.left_out == {"too_long_prompts": 1}


@pytest.mark.parametrize(
    "config", [SimpleNamespace(), SimpleNamespace(max_position_embeddings=None)]
)
def test_a_model_that_names_no_window_takes_everything(config: object) -> None:
    assert window_of(config) > 1_000_000

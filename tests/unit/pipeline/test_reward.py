"""Which parts a run's reward has."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.artifacts import REWARD
from cai.pipeline import reward
from cai.pipeline.reward import load_reward
from cai.reward.composite import RewardWeights

PREFERENCE_MODEL = object()


@pytest.mark.parametrize(
    ("log_loss", "weights", "critic", "kept"),
    [
        (0.60, {}, "reference", True),
        (0.70, {}, "reference", False),
        (0.6931471805599453, {}, "reference", False),
        (None, {}, "reference", True),
        (0.70, {"rubric": 0.0}, "reference", True),
        (0.70, {}, "reward", True),
        (0.60, {"pm": 0.0}, "reference", False),
    ],
)
def test_a_preference_model_that_knows_nothing_is_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log_loss: float | None,
    weights: dict[str, float],
    critic: str,
    kept: bool,
) -> None:
    """ln 2 = 0.6931… is a constant's loss. It stays as the only judge, and as the critic."""
    (tmp_path / REWARD).mkdir()
    metrics = {"log_loss": {"mean": log_loss}}
    (tmp_path / REWARD / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr(reward, "load_preference_model", lambda ctx, base: PREFERENCE_MODEL)
    monkeypatch.setattr(reward, "reference_base", lambda ctx: None)
    run = SimpleNamespace(
        reward_model=None,
        reward_weights=RewardWeights(**weights),
        reward=SimpleNamespace(mode="lora"),
        ppo=SimpleNamespace(critic=critic),
    )
    ctx: Any = SimpleNamespace(run=run, rubric=None, require=lambda name: tmp_path / name)
    assert load_reward(ctx).scorers.preference_model is (PREFERENCE_MODEL if kept else None)
    left_out = not kept and weights.get("pm") is None
    assert ("no better than the 0.693 of a constant" in capsys.readouterr().err) is left_out

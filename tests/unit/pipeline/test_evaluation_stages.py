"""Rewards and log-ratios of evaluation replies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from interruptions import quiet
from preference_toys import untrained_model

from cai.artifacts import POLICY, SFT
from cai.pipeline import reward
from cai.pipeline.evaluation_stages import _add_rewards
from cai.records import EvalReply, chat_of
from cai.rubric import unscored_grade


def reply(subject: str, text: str, draw: int = 0, **grade: Any) -> EvalReply:
    return EvalReply(
        source="p",
        subject=subject,
        chat=chat_of(("user", "Hi")),
        kind="benign",
        category=None,
        draw=draw,
        response=text,
        finished=bool(text),
        grade=unscored_grade({}, "no class", degree=grade.get("degree")),
        reward=None,
        kl=None,
    )


def test_no_answer_and_no_room_mean_no_reward_and_no_kl(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is a reply of no words, or of the part that fits. The other rows keep their order."""
    for folder in (SFT, POLICY):
        (tmp_path / folder).symlink_to(tiny_model)
    monkeypatch.setattr(
        reward, "load_preference_model", lambda ctx, base: untrained_model(tiny_model)
    )
    run = SimpleNamespace(
        eval=SimpleNamespace(temperature=1.0),
        reward=SimpleNamespace(lora_rank=4, num_trainable_layers=None),
    )
    ctx: Any = SimpleNamespace(
        run=run, path=lambda name: tmp_path / name, progress=lambda label: quiet
    )
    complied = {"degree": "full_compliance"}
    replies = [
        reply("policy", ""),
        reply("policy", "a b", 1, **complied),
        reply("base", ""),
        reply("base", "a", 1, **complied),
        reply("policy", "x" * 4096, 2, **complied),
        reply("policy", "a c", 3, **complied),
    ]
    measured = _add_rewards(ctx, replies)
    assert [row.response for row in measured] == [row.response for row in replies]
    assert [row.reward is not None for row in measured] == [False, True, False, True, False, True]
    assert [row.kl for row in measured] == [None, 0.0, None, None, None, 0.0]

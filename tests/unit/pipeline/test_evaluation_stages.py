"""Rewards of evaluation replies, and the policy's KL."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from interruptions import quiet
from preference_toys import untrained_model

from cai.artifacts import POLICY, SFT
from cai.constitution import load_constitution
from cai.modeling.loading import load_model
from cai.pipeline import reward
from cai.pipeline.reply_rewards import add_rewards, measure_policy_kl
from cai.pipeline.reward import load_reward
from cai.records import EvalReply, Prompt, chat_of
from cai.reward.composite import RewardWeights
from cai.rubric import compile_rubric, unscored_grade
from cai.train.ppo.config import RolloutConfig


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


@pytest.fixture
def ctx(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run's context whose models are all the tiny one, but for the preference model."""
    for folder in (SFT, POLICY):
        (tmp_path / folder).symlink_to(tiny_model)
    model = untrained_model(tiny_model)
    monkeypatch.setattr(reward, "load_preference_model", lambda ctx, base: model)
    monkeypatch.setattr(reward, "_is_better_than_a_constant", lambda ctx: True)
    constitution = load_constitution("harmless")
    assert constitution.rubric is not None
    run = SimpleNamespace(
        model="fake:polite",
        judge=None,
        eval=SimpleNamespace(max_tokens=3),
        reward=SimpleNamespace(mode="lora", lora_rank=4, num_trainable_layers=None),
        reward_model=None,
        reward_weights=RewardWeights(pm=2.0, rubric=1.0),
        ppo=SimpleNamespace(
            reference="sft", rollout=RolloutConfig(temperature=0.5, missing_eos_penalty=0.25)
        ),
    )
    return SimpleNamespace(
        run=run,
        seed=0,
        rubric=compile_rubric(constitution.rubric),
        path=lambda name: tmp_path / name,
        require=lambda name: tmp_path / name,
        progress=lambda label: quiet,
    )


def test_no_answer_and_no_room_mean_no_reward(ctx: Any) -> None:
    """Neither is a reply of no words, or of the part that fits. The other rows keep their order."""
    complied = {"degree": "full_compliance"}
    replies = [
        reply("policy", ""),
        reply("policy", "a b", 1, **complied),
        reply("base", ""),
        reply("base", "a", 1, **complied),
        reply("policy", "x" * 4096, 2, **complied),
        reply("policy", "a c", 3, **complied),
    ]
    measured = add_rewards(ctx, replies)
    assert [row.response for row in measured] == [row.response for row in replies]
    known = [False, True, False, True, False, True]
    assert [row.reward is not None for row in measured] == known
    assert [row.total_reward is not None for row in measured] == known


def test_the_whole_reward_is_what_ppo_maximised(ctx: Any) -> None:
    """Parts by the run's weights, those of PPO's own reward, and the penalty for a cut reply."""
    complied = {"degree": "full_compliance"}
    ended = reply("sft", "a b", **complied)
    cut = reply("sft", "a b", 1, **complied).model_copy(update={"finished": False})
    first, second = add_rewards(ctx, [ended, cut])
    prompt = Prompt(chat=ended.chat, kind=ended.kind)
    parts = load_reward(ctx, None)([prompt], ["a b"])
    assert first.reward is not None
    assert parts["pm"][0] == pytest.approx(2 * first.reward)
    expected = {name: part[0] for name, part in parts.items()} | {"missing_eos": 0.0}
    assert first.reward_parts == pytest.approx(expected)
    assert first.total_reward is not None
    (cut_score,) = load_reward(ctx, None)([prompt], ["a b"], [False])["rubric"]
    assert cut_score is not None
    assert second.total_reward == pytest.approx(parts["pm"][0] + cut_score - 0.25)


def test_an_unknown_part_makes_the_whole_reward_unknown(
    ctx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx.run.reward_weights = RewardWeights(pm=1.0, direct=1.0)
    ctx.lm = lambda spec: None
    monkeypatch.setattr(reward, "batch_rater", lambda judge: lambda prompts, replies: [None, 0.5])
    replies = [reply("sft", "a", draw, degree="full_compliance") for draw in range(2)]
    unknown, known = add_rewards(ctx, replies)
    assert (unknown.total_reward, known.total_reward is not None) == (None, True)
    assert unknown.reward is not None


def test_kl_is_from_the_reference_of_ppo(ctx: Any, tiny_model: Path, tmp_path: Path) -> None:
    """The policy is the fine-tuned model here, and another than the base."""
    base = load_model(str(tiny_model))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(1.1)
    base.save_pretrained(tmp_path / "base")
    ctx.run.model = f"local:{tmp_path / 'base'}"
    prompts = [Prompt(chat=chat_of(("user", "Hi")))]
    assert [row.kl for row in measure_policy_kl(ctx, prompts)] == pytest.approx([0, 0], abs=1e-5)
    ctx.run.ppo.reference = "base"
    assert all(row.kl is not None and row.kl > 0.01 for row in measure_policy_kl(ctx, prompts))


def test_kl_is_measured_at_one_and_at_the_temperature_of_ppo(ctx: Any) -> None:
    """Of a policy that is its reference, 0."""
    prompts = [Prompt(chat=chat_of(("user", text))) for text in ("Hi", "x" * 4096)]
    rows = measure_policy_kl(ctx, prompts)
    assert [(row.temperature, row.source) for row in rows] == [
        (t, p.id) for t in (1.0, 0.5) for p in prompts
    ]
    assert [row.kl for row in rows] == [0.0, None, 0.0, None]
    assert [row.tokens <= 3 for row in rows] == [True] * 4
    ctx.run.ppo.rollout = RolloutConfig(temperature=1.0)
    assert len(measure_policy_kl(ctx, prompts)) == 2

"""One step of TRL's own GRPO and RLOO trainers with the reward and the ranks of replies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cai.integrations.reward_batching import RewardTable
from cai.integrations.trl_reward import reward_function
from cai.records import Prompt


@pytest.mark.filterwarnings("ignore")  # of TRL, peft and transformers about each other
@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_a_step_with_an_unknown_reward(tiny_model: Path, tmp_path: Path, name: str) -> None:
    """Two prompts with two replies each, with rewards 4 and 6, 8 and unknown, and shares for the
    first two. TRL leaves the row out of its means: the loss is a number, and no 0 is a reward.
    """
    import datasets
    import trl

    calls: list[tuple[Prompt, list[str]]] = []

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
        rewards: list[float | None] = [3.0, 5.0, 7.0, None]
        return {"pm": rewards[: len(replies)], "rubric": [1.0] * len(replies)}

    def rank(prompt: Prompt, replies: Sequence[str]) -> list[float | None]:
        calls.append((prompt, list(replies)))
        return [None, None] if len(calls) % 2 == 0 else [0.25, 0.75]

    rows = [
        {"prompt": [{"role": "user", "content": text}], "kind": "benign"} for text in ("Hi", "Yo")
    ]
    config: Any = getattr(trl, f"{name}Config")
    trainer: Any = getattr(trl, f"{name}Trainer")
    training = trainer(
        model=str(tiny_model),
        reward_funcs=reward_function(score, rank),
        args=config(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=4,
            max_steps=1,
            logging_steps=1,
            learning_rate=1e-3,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
    )
    training.train()
    logged = training.state.log_history[0]
    assert logged["rewards/cai_reward/mean"] == pytest.approx((4.25 + 6.75 + 8) / 3)
    assert math.isfinite(logged["loss"])
    assert math.isfinite(logged["grad_norm"])
    assert {prompt.kind for prompt, _ in calls} == {"benign"}
    assert [len(replies) for _, replies in calls] == [2, 2]
    assert {prompt.chat[0].content for prompt, _ in calls} == {"Hi", "Yo"}

"""Keys of a run's YAML that were renamed: an old key is an error that names the new one."""

from __future__ import annotations

from typing import Any

from cai.constitution import Source
from cai.errors import ConfigError

RENAMED = {
    "mix": "reward_weights",
    "track": "report_to",
    "sft.rank": "sft.lora_rank",
    "sft.layers": "sft.num_trainable_layers",
    "sft.max_tokens": "sft.max_length",
    "reward.rank": "reward.lora_rank",
    "reward.layers": "reward.num_trainable_layers",
    "reward.own_share": "reward.label_share",
    "ppo.updates": "ppo.num_updates",
    "ppo.rank": "ppo.lora_rank",
    "ppo.layers": "ppo.num_trainable_layers",
    "ppo.prompts": "ppo.rollout.prompts_per_update",
    "ppo.replies": "ppo.rollout.responses_per_prompt",
    "ppo.shares": "ppo.rollout.shares",
    "ppo.max_tokens": "ppo.rollout.max_new_tokens",
    "ppo.temperature": "ppo.rollout.temperature",
    "ppo.missing_stop": "ppo.rollout.missing_eos_penalty",
    "ppo.lam": "ppo.advantage.lam",
    "ppo.centre": "ppo.advantage.center_by_kind",
    "ppo.whiten": "ppo.advantage.whiten_advantages",
    "ppo.rescale": "ppo.advantage.scale_rewards",
    "ppo.learning_rate": "ppo.optimization.learning_rate",
    "ppo.critic_learning_rate": "ppo.optimization.critic_learning_rate",
    "ppo.epochs": "ppo.optimization.num_ppo_epochs",
    "ppo.minibatches": "ppo.optimization.num_minibatches",
    "ppo.rows": "ppo.optimization.micro_batch_size",
    "ppo.clip": "ppo.optimization.clip_range",
    "ppo.max_grad_norm": "ppo.optimization.max_grad_norm",
    "ppo.warmup": "ppo.optimization.lr_warmup_steps",
    "ppo.critic_warmup": "ppo.optimization.critic_warmup_updates",
    "ppo.ema": "ppo.optimization.ema_decay",
    "ppo.ptx.batch": "ppo.ptx.batch_size",
}
"""Old key -> new key, dotted from the run's root."""


def refuse_renamed(source: Source) -> None:
    """Nothing, if every key has its present name.

    Raises:
        ConfigError: lists each old key with file, line and the new key.
    """
    mistakes = [
        f"{source.at(tuple(old.split('.')))}: {old}: this key was renamed: write {new}"
        for old, new in RENAMED.items()
        if _has(source.data, old.split("."))
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _has(data: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True

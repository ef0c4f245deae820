"""The reward function for OpenRLHF, which asks `cai serve-reward` for its rewards.

    --reward.remote_url /path/to/openrlhf_reward.py

As `cai export` writes it, this file needs only the standard library, and torch, which the engine
has. CAI_REWARD_URL and CAI_REWARD_TOKEN give the server's address and token. Requests go there
directly: through no proxy, and no redirect is followed.

A reward that stays unknown is never a number of ours. The function raises, which leaves the row
without a reward, and the engine ends the training for it. With CAI_REWARD_UNKNOWN=filter the row's
reward is NaN instead: under `--algo.dynamic_filtering_enable`, and only there, the engine drops
every group of replies with a NaN and draws another prompt.
"""

import math
import os

import torch

from cai.integrations.plugins.reward_client import FAILURES, Reward, decoded_rewards

FILTERS = os.environ.get("CAI_REWARD_UNKNOWN") == "filter"


def reward_func(queries, prompts, labels, **kwargs):  # type: ignore[no-untyped-def]
    """Rewards, scores in [0, 1] and the parts of each, as tensors of one number per query.

    The scores, which the engine's filter reads, are the logistic function of the rewards.

    Raises:
        RuntimeError: a reward is unknown, or too many are where the engine filters.
    """
    known = decoded_rewards(list(queries), list(prompts), list(labels or []))
    warning = FAILURES.record(known)
    reason = next((reward.reason for reward in known if reward.reason is not None), None)
    if warning or (reason is not None and not FILTERS):
        raise RuntimeError(warning or f"cai: a reward is unknown: {reason}")
    names = sorted({name for reward in known for name in reward.parts})
    return {
        "rewards": torch.tensor([_number(reward.value) for reward in known]),
        "scores": torch.tensor([_score(reward) for reward in known]),
        "extra_logs": {
            **{
                name: torch.tensor([_number(reward.parts.get(name)) for reward in known])
                for name in names
            },
            "cai_error": torch.tensor([float(reward.reason is not None) for reward in known]),
        },
    }


def _score(reward: Reward) -> float:
    return math.nan if reward.value is None else 1 / (1 + math.exp(-min(reward.value, 700.0)))


def _number(value: float | None) -> float:
    return math.nan if value is None else value

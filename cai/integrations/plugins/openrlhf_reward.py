"""The reward function for OpenRLHF, which asks `cai serve-reward` for its rewards.

    --reward.remote_url /path/to/openrlhf_reward.py

As `cai export` writes it, this file needs only the standard library, and torch, which the engine
has. CAI_REWARD_URL and CAI_REWARD_TOKEN give the server's address and token. Requests go there
directly: through no proxy, and no redirect is followed.

A row whose reward stays unknown gets the mean of the known rewards of its batch, or, as the engine
asks row by row, of the recent ones; its `cai_error` is 1. The function never raises: the engine
swallows exceptions and would continue with rewards of None. Above the limit of failures it prints a
line: watch `cai_error`, and stop the training.
"""

import json
import sys
from typing import Any

import torch

from cai.integrations.plugins.reward_client import MEMORY, RequestFailure, post


def reward_func(queries, prompts, labels, **kwargs):  # type: ignore[no-untyped-def]
    """Rewards, scores in [0, 1] and the parts of each, as tensors of one number per query."""
    count = len(queries) if hasattr(queries, "__len__") else 1
    try:
        answer = post(
            "/get_reward",
            {
                "query": list(queries),
                "prompts": list(prompts),
                "labels": [x if isinstance(x, str) else json.dumps(x) for x in labels or []],
            },
        )
        return _tensors(answer, count)
    except RequestFailure as error:
        reason = str(error)
    except Exception as error:
        reason = f"an answer of another form: {type(error).__name__}"
    unknown = [None] * count
    logs = {name: unknown for name in list(MEMORY.known) if name not in ("rewards", "scores")}
    reasons = [reason] * count
    return _tensors(
        {"rewards": unknown, "scores": unknown, "extra_logs": logs, "reasons": reasons}, count
    )


def _tensors(answer: dict[str, Any], count: int) -> dict[str, Any]:
    """An answer of the server as the engine wants it, without unknown numbers."""
    rewards, scores, reasons = answer["rewards"], answer["scores"], answer["reasons"]
    logs = {name: values for name, values in answer["extra_logs"].items() if name != "cai_error"}
    if any(len(column) != count for column in (rewards, scores, reasons, *logs.values())):
        raise ValueError("rows are missing")
    warning = MEMORY.record(reasons)
    if warning and not MEMORY.warned:
        MEMORY.warned = True
        print(warning, file=sys.stderr, flush=True)
    return {
        "rewards": torch.tensor(MEMORY.fill("rewards", rewards)),
        "scores": torch.tensor(MEMORY.fill("scores", scores)),
        "extra_logs": {
            **{name: torch.tensor(_part(name, logs[name], rewards)) for name in logs},
            "cai_error": torch.tensor([float(reward is None) for reward in rewards]),
        },
    }


def _part(name: str, values: list[Any], rewards: list[Any]) -> list[float]:
    """A part of the reward; 0 where it is no part of a known reward."""
    filled = MEMORY.fill(name, values)
    return [
        0.0 if value is None and reward is not None else number
        for value, reward, number in zip(values, rewards, filled)  # noqa: B905  # same length
    ]

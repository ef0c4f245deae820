"""The reward function for OpenRLHF, which asks `cai serve-reward` for its rewards.

    --reward.remote_url /path/to/openrlhf_reward.py

This file needs only the standard library, and torch, which the engine has. CAI_REWARD_URL and
CAI_REWARD_TOKEN give the server's address and token. It never raises, because the engine would
continue with rewards of None: a row without a reward gets 0, and `cai_error` 1.
"""

import json
import os
import urllib.request
from typing import Any

import torch

TIMEOUT_S = 180


def reward_func(queries, prompts, labels, **kwargs):  # type: ignore[no-untyped-def]
    """Rewards, scores in [0, 1] and the parts of each, as tensors of one number per query."""
    try:
        answer = _post(
            {
                "query": list(queries),
                "prompts": list(prompts),
                "labels": [x if isinstance(x, str) else json.dumps(x) for x in labels or []],
            }
        )
        return {
            "rewards": torch.tensor(answer["rewards"], dtype=torch.float32),
            "scores": torch.tensor(answer["scores"], dtype=torch.float32),
            "extra_logs": {
                name: torch.tensor(values, dtype=torch.float32)
                for name, values in answer["extra_logs"].items()
            },
        }
    except Exception:
        count = len(queries) if hasattr(queries, "__len__") else 1
        return {
            "rewards": torch.zeros(count),
            "scores": torch.zeros(count),
            "extra_logs": {"cai_error": torch.ones(count)},
        }


def _post(body: dict[str, Any]) -> Any:
    url = os.environ.get("CAI_REWARD_URL", "http://127.0.0.1:8900").rstrip("/") + "/get_reward"
    request = urllib.request.Request(  # noqa: S310  # the user gives the address
        url,
        data=json.dumps(body).encode(),
        headers={
            "content-type": "application/json",
            "authorization": "Bearer " + os.environ.get("CAI_REWARD_TOKEN", ""),
        },
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
        return json.load(response)

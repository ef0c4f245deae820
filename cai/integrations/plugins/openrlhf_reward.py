"""OpenRLHF asks `cai serve-reward` for its rewards: `--reward.remote_url /path/to/openrlhf_reward.py`.

The file stands alone (standard library, and torch, which the engine has). CAI_REWARD_URL and CAI_REWARD_TOKEN say where the
server is. It never raises, for the engine would go on with rewards of None: an unscored row gets 0 and `cai_error` 1.
"""

import json
import os
import urllib.request

import torch

TIMEOUT = 180


def reward_func(queries, prompts, labels, **kwargs):  # type: ignore[no-untyped-def]
    """Rewards, scores in [0, 1] and the parts of each, as tensors of one number per query."""
    try:
        body = {
            "query": list(queries),
            "prompts": list(prompts),
            "labels": [x if isinstance(x, str) else json.dumps(x) for x in labels or []],
        }
        request = urllib.request.Request(  # noqa: S310  # the address is the user's own
            os.environ.get("CAI_REWARD_URL", "http://127.0.0.1:8900").rstrip("/") + "/get_reward",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": "Bearer " + os.environ.get("CAI_REWARD_TOKEN", "")},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            found = json.load(answer)
        logs = {name: torch.tensor(values, dtype=torch.float32) for name, values in found["extra_logs"].items()}
        rewards = torch.tensor(found["rewards"], dtype=torch.float32)
        return {"rewards": rewards, "scores": torch.tensor(found["scores"], dtype=torch.float32), "extra_logs": logs}
    except Exception:
        count = len(queries) if hasattr(queries, "__len__") else 1
        nothing = torch.zeros(count)
        return {"rewards": nothing, "scores": nothing.clone(), "extra_logs": {"cai_error": torch.ones(count)}}

"""The reward function for verl, which asks `cai serve-reward` for its rewards.

    reward.custom_reward_function.path=/path/to/verl_reward.py
    reward.custom_reward_function.name=compute_score

This file needs only the standard library. CAI_REWARD_URL and CAI_REWARD_TOKEN give the server's
address and token; `server_url` and `token` among the function's arguments override them. The engine
passes the reply only, so `extra_info` must hold `chat` and `kind`, as `cai export --to verl` writes
them. The returned dictionary always has the same keys.
"""

import json
import os
import urllib.request
from typing import Any

KEYS = ("score", "pm", "rubric", "direct", "length", "format", "cai_error")
TIMEOUT_S = 180


def compute_score(  # type: ignore[no-untyped-def]
    data_source,
    solution_str,
    ground_truth,
    extra_info=None,
    server_url=None,
    token=None,
    **kwargs,
):
    """The reward as `score`, its parts, and `cai_error`.

    The engine cannot leave a row out: an unknown reward is 0, with `cai_error` 1.
    """
    result = dict.fromkeys(KEYS, 0.0)
    try:
        info = dict(extra_info or {})
        chat = info.get("chat")
        row = {
            "response": str(solution_str),
            "kind": info.get("kind"),
            "chat": json.loads(chat) if isinstance(chat, str) else chat,
        }
        answer = _post({"rows": [row]}, server_url, token)
        known = {name: part[0] for name, part in answer["parts"].items() if part[0] is not None}
        result.update({name: float(value) for name, value in known.items() if name in KEYS})
        if answer["rewards"][0] is None:
            result["cai_error"] = 1.0
        else:
            result["score"] = float(answer["rewards"][0])
    except Exception:
        result["cai_error"] = 1.0
    return result


def _post(body: dict[str, Any], server_url: str | None, token: str | None) -> Any:
    url = server_url or os.environ.get("CAI_REWARD_URL", "http://127.0.0.1:8900")
    request = urllib.request.Request(  # noqa: S310  # the user gives the address
        url.rstrip("/") + "/score",
        data=json.dumps(body).encode(),
        headers={
            "content-type": "application/json",
            "authorization": "Bearer " + (token or os.environ.get("CAI_REWARD_TOKEN", "")),
        },
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
        return json.load(response)

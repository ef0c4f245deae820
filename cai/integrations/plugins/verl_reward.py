"""The reward function for verl, which asks `cai serve-reward` for its rewards.

    reward.custom_reward_function.path=/path/to/verl_reward.py
    reward.custom_reward_function.name=compute_score

As `cai export` writes it, this file needs only the standard library. CAI_REWARD_URL and
CAI_REWARD_TOKEN give the server's address and token; `server_url` and `token` among the function's
arguments override them. Requests go there directly: through no proxy, and no redirect is followed.
The engine passes the reply only, so `extra_info` must hold `chat` and `kind`, as `cai export --to
verl` writes them. The returned dictionary always has the same keys.

The engine asks row by row. A row whose reward stays unknown gets the mean of the recent known
rewards, and its `cai_error` is 1. Above the limit of failures the function raises, which ends the
training.
"""

import json
from typing import Any

from cai.integrations.plugins.reward_client import MEMORY, RequestFailure, post

PARTS = ("pm", "rubric", "direct", "relevance", "length", "format")
KEYS = ("score", *PARTS, "cai_error")


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

    A part that the reward of this row does not have is 0.

    Raises:
        RuntimeError: too large a share of the recent rewards is unknown.
    """
    reward, parts, reason = None, {}, None
    try:
        answer = post("/score", {"rows": [_row(solution_str, extra_info)]}, server_url, token)
        (reward,), (reason,) = answer["rewards"], answer["reasons"]
        parts = {name: values[0] for name, values in answer["parts"].items()}
        reason = reason or (None if reward is not None else "the server gives no reason")
    except RequestFailure as error:
        reason = str(error)
    except Exception as error:
        reward, parts, reason = None, {}, f"an answer of another form: {type(error).__name__}"
    result = {"score": MEMORY.fill("score", [reward])[0]}
    for name in PARTS:
        value = parts.get(name)
        known = value is not None or (reason is not None and name in MEMORY.known)
        result[name] = MEMORY.fill(name, [value])[0] if known else 0.0
    result["cai_error"] = 0.0 if reason is None else 1.0
    warning = MEMORY.record([reason])
    if warning:
        raise RuntimeError(warning)
    return result


def _row(reply: Any, extra_info: Any) -> dict[str, Any]:
    """A row of /score; without `kind` where the data set has no such column."""
    info = dict(extra_info or {})
    chat = info.get("chat")
    row = {"response": str(reply), "chat": json.loads(chat) if isinstance(chat, str) else chat}
    return row | {"kind": info["kind"]} if "kind" in info else row

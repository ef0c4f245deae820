"""verl asks `cai serve-reward` for its rewards.

    reward.custom_reward_function.path=/path/to/verl_reward.py reward.custom_reward_function.name=compute_score

The file stands alone (standard library). CAI_REWARD_URL and CAI_REWARD_TOKEN, or `server_url` and `token` among the function's
own arguments, say where the server is. The engine hands over the reply only, so `extra_info` must hold `chat` and `kind`, as
`cai export --to verl` writes them. The keys of the answer are always the same.
"""

import json
import os
import urllib.request

KEYS = ("score", "pm", "rubric", "direct", "length", "format", "cai_error")
TIMEOUT = 180


def compute_score(data_source, solution_str, ground_truth, extra_info=None, server_url=None, token=None, **kwargs):  # type: ignore[no-untyped-def]
    """The reward as `score`, its parts, and whether it is unknown (then 0, for the engine can leave no row out)."""
    found = dict.fromkeys(KEYS, 0.0)
    try:
        about = dict(extra_info or {})
        chat = about.get("chat")
        row = {
            "response": str(solution_str),
            "kind": about.get("kind"),
            "chat": json.loads(chat) if isinstance(chat, str) else chat,
        }
        request = urllib.request.Request(  # noqa: S310  # the address is the user's own
            (server_url or os.environ.get("CAI_REWARD_URL", "http://127.0.0.1:8900")).rstrip("/") + "/score",
            data=json.dumps({"rows": [row]}).encode(),
            headers={
                "content-type": "application/json",
                "authorization": "Bearer " + (token or os.environ.get("CAI_REWARD_TOKEN", "")),
            },
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            said = json.load(answer)
        found.update({name: float(part[0]) for name, part in said["parts"].items() if name in KEYS and part[0] is not None})
        if said["rewards"][0] is None:
            found["cai_error"] = 1.0
        else:
            found["score"] = float(said["rewards"][0])
    except Exception:
        found["cai_error"] = 1.0
    return found

"""The reward function for AReaL's RLVRWorkflow, which asks `cai serve-reward` for its rewards.

    RLVRWorkflow(reward_fn="areal_reward.reward_fn", ...)

The folder of this file has to be on PYTHONPATH of the rollout workers: the engine imports it by
name there, and calls it in processes. As `cai export` writes it, the file needs only the standard
library. CAI_REWARD_URL and CAI_REWARD_TOKEN give the server's address and token.

Rows bring `messages` and `kind`, as `cai export --to areal` writes them. A reward that stays
unknown is an exception: the engine rejects the episode and draws another one. An answer that takes
longer than the engine's limit of 15 seconds would become a reward of 0 there, so this function
gives up before.
"""

import json
import sys

from cai.integrations.plugins.reward_client import FAILURES, Server, decoded_rewards

SERVER_OF_AREAL = Server(within_s=10)


def reward_fn(prompt, completions, prompt_ids, completion_ids, **data):  # type: ignore[no-untyped-def]
    """The reward of one reply.

    Raises:
        RuntimeError: it is unknown.
    """
    label = {"chat": data.get("messages")} | ({"kind": data["kind"]} if "kind" in data else {})
    known = decoded_rewards([prompt + completions], [prompt], [json.dumps(label)], SERVER_OF_AREAL)
    if warning := FAILURES.record(known):
        print(warning, file=sys.stderr, flush=True)
    (reward,) = known
    if reward.value is None:
        raise RuntimeError(f"cai: a reward is unknown: {reward.reason}")
    return reward.value

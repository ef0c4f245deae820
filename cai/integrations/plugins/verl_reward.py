"""The reward in verl: a reward manager, its advantages, and a reward function.

    reward.reward_manager.source=importlib
    reward.reward_manager.name=RewardManager
    reward.reward_manager.module.path=/path/to/verl_reward.py
    algorithm.adv_estimator=cai_grpo

As `cai export` writes it, this file needs only verl and what verl needs. CAI_REWARD_URL and
CAI_REWARD_TOKEN give the address and token of `cai serve-reward`. Requests go there directly:
through no proxy, and no redirect is followed. Rows bring `chat` and `kind` in `extra_info`, as `cai
export --to verl` writes them.

The manager asks for the rewards of all replies that wait, in batches. Under the estimator
`cai_grpo` a reward that stays unknown is NaN, with `cai_error` 1. That estimator is GRPO's over the
known rewards of a prompt, and a row without reward has an advantage of 0. Other estimators would
spread the NaN: under them, and in `compute_score`, the function for verl's own managers, an unknown
reward is an exception, which ends the training. So is too large a share of unknown rewards.
"""

import asyncio
import math
from collections import Counter, defaultdict
from typing import Any

import torch
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

from cai.integrations.plugins.reward_client import FAILURES, Reward, Server, rewards

ESTIMATOR = "cai_grpo"
EPSILON = 1e-6
PARTS = ("pm", "rubric", "direct", "relevance", "length", "format")
BATCH_SIZE = 64
"""Rows of one request."""
BATCH_WAIT_S = 0.02
"""Seconds that the first row of a batch waits for others."""
MAX_REQUESTS = 4
"""Requests of one reward worker that are under way at once."""


class RewardManager(RewardManagerBase):
    """The reward of each reply, from batches of all that wait in this worker."""

    def __init__(  # type: ignore[no-untyped-def]
        self, config, tokenizer, compute_score=None, **unused
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.allows_unknown = config.algorithm.adv_estimator == ESTIMATOR
        self.waiting: list[tuple[dict[str, Any], str, asyncio.Future[Reward]]] = []
        self.requests = asyncio.Semaphore(MAX_REQUESTS)
        self.tasks: set[asyncio.Task[None]] = set()

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of the last row, and its parts.

        Raises:
            RuntimeError: it is unknown and the estimator would spread it, or too many are.
        """
        item = data[-1:][0]
        ids = item.batch["responses"]
        mask = item.batch["attention_mask"][-ids.shape[-1] :]
        fields = dict(item.non_tensor_batch.get("extra_info") or {})
        if fields.get("chat") is None:
            fields["chat"] = [dict(turn) for turn in item.non_tensor_batch["raw_prompt"]]
        loop = asyncio.get_running_loop()
        reply = await loop.run_in_executor(
            None, lambda: self.tokenizer.decode(ids[: int(mask.sum())], skip_special_tokens=True)
        )
        reward = await self._reward(fields, reply)
        result = _table(reward, self.allows_unknown)
        return {"reward_score": result["score"], "reward_extra_info": result}

    async def _reward(self, fields: dict[str, Any], reply: str) -> Reward:
        result: asyncio.Future[Reward] = asyncio.get_running_loop().create_future()
        self.waiting.append((fields, reply, result))
        if len(self.waiting) == 1:
            self._start(BATCH_WAIT_S)
        elif len(self.waiting) == BATCH_SIZE:
            self._start(0)
        return await result

    def _start(self, wait_s: float) -> None:
        task = asyncio.create_task(self._send(wait_s))
        self.tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self.tasks.discard)

    async def _send(self, wait_s: float) -> None:
        """Score the rows that wait. A batch that waits for its request grows further."""
        await asyncio.sleep(wait_s)
        async with self.requests:
            batch, self.waiting = self.waiting[:BATCH_SIZE], self.waiting[BATCH_SIZE:]
            if self.waiting:
                self._start(0)
            if not batch:
                return
            fields, replies, results = zip(*batch)  # noqa: B905  # of tuples
            try:
                known = await asyncio.to_thread(rewards, list(fields), list(replies))
            except Exception as error:
                known = [Reward(None, {}, f"no request: {type(error).__name__}")] * len(batch)
        for reward, result in zip(known, results):  # noqa: B905  # same length
            if not result.done():
                result.set_result(reward)


def compute_score(  # type: ignore[no-untyped-def]
    data_source,
    solution_str,
    ground_truth,
    extra_info=None,
    server_url=None,
    token=None,
    **kwargs,
):
    """The reward of one reply as `score`, its parts, and `cai_error`: for verl's own managers.

        reward.custom_reward_function.path=/path/to/verl_reward.py
        reward.custom_reward_function.name=compute_score

    `server_url` and `token` come from `reward.custom_reward_function.reward_kwargs`.

    Raises:
        RuntimeError: the reward is unknown.
    """
    (reward,) = rewards([dict(extra_info or {})], [solution_str], Server(server_url, token))
    return _table(reward, allows_unknown=False)


def _table(reward: Reward, allows_unknown: bool) -> dict[str, float]:
    """The reward's columns, always the same; a part that the row's reward does not have is 0."""
    warning = FAILURES.record([reward])
    if warning or (reward.reason is not None and not allows_unknown):
        raise RuntimeError(warning or f"cai: a reward is unknown: {reward.reason}")
    other = 0.0 if reward.reason is None else math.nan
    parts = {name: reward.parts.get(name) for name in PARTS}
    return {
        "score": math.nan if reward.value is None else reward.value,
        **{name: other if part is None else part for name, part in parts.items()},
        "cai_error": float(reward.reason is not None),
    }


def known_grpo_advantages(  # type: ignore[no-untyped-def]
    token_level_rewards, response_mask, index, config=None, **kwargs
):
    """GRPO's advantages over the replies whose reward is known.

        A_i = (r_i - mean r) / (std r + 1e-6)      over the known replies of the prompt of i

    Rows without reward, and those that are the only known ones of several, have advantage 0. As in
    verl's `grpo`, a prompt's only reply has its reward as advantage, and
    `algorithm.norm_adv_by_std_in_grpo=False` leaves out the division.

    Args:
        token_level_rewards: (B, T); NaN in a row whose reward is unknown.
        response_mask: (B, T).
        index: the prompt of each row.

    Returns:
        Advantages and returns, both (B, T).
    """
    rewards_B = token_level_rewards.sum(dim=-1)
    groups = defaultdict(list)
    for row, prompt in enumerate(index):
        if bool(torch.isfinite(rewards_B[row])):
            groups[prompt].append(row)
    scale = config is None or config.get("norm_adv_by_std_in_grpo", True)
    sizes = Counter(index)
    advantages_B = torch.zeros_like(rewards_B)
    for prompt, rows in groups.items():
        if sizes[prompt] == 1:
            advantages_B[rows] = rewards_B[rows] / (1 + EPSILON if scale else 1)
        elif len(rows) > 1:
            centered = rewards_B[rows] - rewards_B[rows].mean()
            advantages_B[rows] = centered / (centered.std() + EPSILON) if scale else centered
    advantages_BT = advantages_B.unsqueeze(-1) * response_mask
    return advantages_BT, advantages_BT


# verl executes this file at each load, and its decorator refuses a second function of that name
ADV_ESTIMATOR_REGISTRY.setdefault(ESTIMATOR, known_grpo_advantages)

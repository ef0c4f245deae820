"""A verifiers environment: a run's prompts, its reward, and replies ranked by its judge.

    vf-eval cai-constitution

`cai export --to verifiers` writes this file as the package `cai_constitution`, with its prompts, to
be installed. It needs only verifiers, and asks `cai serve-reward` for its rewards:
CAI_REWARD_URL and CAI_REWARD_TOKEN give the address and token.

Each part of the reward is a reward of the trace, of weight 1. A reward that stays unknown is an
exception: the trace has no value for it, and is not `ok`. With `--env.replies 4` an episode has
four replies to one prompt, and with `--env.rank-weight 1` each of them gets its share of won
comparisons as `rank`.
"""

import asyncio
import json
import sys
from pathlib import Path

import verifiers.v1 as vf
from pydantic import Field, model_validator

from cai.integrations.plugins.reward_client import FAILURES, Reward, ranks, rewards

__all__ = ["ConstitutionEnv", "ConstitutionTaskset"]
NOT_COMPARED = "no principle compares replies to this prompt"
"""The server's reason where the constitution has no principle for the prompt's kind."""
PROMPTS = Path(__file__).with_name("prompts.jsonl")


class PromptData(vf.TaskData):
    """A prompt, with its kind for the rubric."""

    chat: list[dict[str, str]] = []
    kind: str | None = None

    @property
    def fields(self) -> dict[str, object]:
        """The prompt as the reward server takes it."""
        return {"chat": self.chat, "kind": self.kind}


class PromptTask(vf.Task[PromptData]):
    """One reply to a prompt, and its reward."""

    @vf.reward
    async def constitution(self, task: PromptData, trace: vf.Trace) -> dict[str, float]:
        """The parts of the reward, by name.

        Raises:
            RuntimeError: the reward is unknown.
        """
        known = await asyncio.to_thread(rewards, [task.fields], [trace.last_reply])
        (reward,) = _checked(known)
        return {name: part for name, part in reward.parts.items() if part is not None}


class ConstitutionTaskset(vf.Taskset[PromptTask, vf.TasksetConfig]):
    """The prompts in the file beside this module."""

    def load(self):  # type: ignore[no-untyped-def]
        for line in PROMPTS.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            chat = row["chat"]
            alone = len(chat) == 1 and chat[0]["role"] == "user"
            data = PromptData(
                id=row["id"],
                prompt=chat[0]["content"] if alone else chat,
                chat=chat,
                kind=row["kind"],
            )
            yield PromptTask(data, self.config.task)


class ConstitutionEnvConfig(vf.EnvConfig):
    """One seat that chats, without tools or a sandbox."""

    agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime=vf.SubprocessConfig())
    replies: int = Field(1, ge=1)
    """Replies to the prompt in one episode."""
    rank_weight: float = Field(0.0, ge=0)
    """Of each reply's share of won comparisons with the others; 0: they are not compared."""

    @model_validator(mode="after")
    def _has_others(self) -> "ConstitutionEnvConfig":
        if self.rank_weight and self.replies < 2:
            raise ValueError("rank_weight compares replies to one prompt: set replies to 2 or more")
        return self


class ConstitutionEnv(vf.Env[ConstitutionEnvConfig]):
    """Independent replies to one prompt, compared with each other where the config says so."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Draw the replies."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.config.replies):
                group.create_task(agents.agent.run(task))

    async def finalize(self, task: PromptTask, episode: vf.Episode) -> None:
        """Rank the replies of the traces that are ok, where the constitution compares them.

        Raises:
            RuntimeError: a comparison has no verdict.
        """
        traces = [trace for trace in episode.traces if trace.ok]
        if not self.config.rank_weight or not traces:
            return
        replies = [trace.last_reply for trace in traces]
        known = await asyncio.to_thread(ranks, task.data.fields, replies)
        if all(share.reason == NOT_COMPARED for share in known):
            return
        known = _checked(known)
        for trace, share in zip(traces, known):  # noqa: B905  # same length
            trace.record_reward("rank", share.value, self.config.rank_weight)


def _checked(known: list[Reward]) -> list[Reward]:
    if warning := FAILURES.record(known):
        print(warning, file=sys.stderr, flush=True)
    for reward in known:
        if reward.reason is not None:
            raise RuntimeError(f"cai: a reward is unknown: {reward.reason}")
    return known

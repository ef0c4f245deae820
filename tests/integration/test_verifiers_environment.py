"""The verifiers environment, in verifiers itself. Skipped where it is not installed."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from reward_toys import TOKEN, by_length, serving, url_of

from cai import store
from cai.integrations.export_engines import export_engine
from cai.integrations.group_requests import NOT_COMPARED
from cai.integrations.reward_requests import Limits
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt, chat_of

vf = pytest.importorskip("verifiers.v1")

PROMPTS = [
    Prompt(chat=chat_of(("user", "Hi")), kind="benign"),
    Prompt(chat=chat_of(("user", "a"), ("assistant", "b"), ("user", "c")), kind=None),
]


def by_words(prompt: Prompt, replies: Sequence[str]) -> list[float | None]:
    """The longer reply wins; replies to one with `unclear` have no verdict."""
    if prompt.kind is None:
        return []
    if any("unclear" in reply for reply in replies):
        return [None] * len(replies)
    sizes = [len(reply.split()) for reply in replies]
    others = len(replies) - 1
    return [
        sum((a > b) + (a == b) / 2 for j, b in enumerate(sizes) if j != i) / others
        for i, a in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length, limits=Limits(timeout_s=20)) as running:
        running.serve_ranks(by_words)
        yield running


@pytest.fixture
def package(
    server: RewardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """The exported package, where Python looks for modules."""
    run = tmp_path / "run"
    run.mkdir()
    store.begin_artifact(run / "00-prompts.jsonl", "prompts", {"seed": "0"})
    store.append_rows(run / "00-prompts.jsonl", PROMPTS)
    store.finish_artifact(run / "00-prompts.jsonl")
    export_engine(run, tmp_path / "exported", "verifiers")
    monkeypatch.syspath_prepend(str(tmp_path / "exported"))
    monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
    yield importlib.import_module("cai_constitution")
    del sys.modules["cai_constitution"]


def environment(**settings: Any) -> Any:
    """The environment as `vf-eval cai-constitution` builds it."""
    from verifiers.v1.utils.loaders import env_config_type, load_environment

    config = env_config_type("cai-constitution", "")
    return load_environment(
        config.model_validate({"taskset": {"id": "cai-constitution"}} | settings)
    )


def trace_of(task: Any, reply: str) -> Any:
    """A trace that ends with `reply`."""
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.trace import AgentInfo, TraceTask

    trace = vf.Trace(
        task=TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=AgentInfo(config=vf.AgentConfig()),
    )
    trace.nodes.append(MessageNode(message=vf.UserMessage(content="Hi")))
    answer = vf.AssistantMessage(content=reply)
    trace.nodes.append(MessageNode(message=answer, parent=0, sampled=True))
    trace.ok = True
    return trace


def test_the_tasks_are_the_run_s_prompts(package: ModuleType) -> None:
    tasks = list(environment().taskset)
    assert [task.data.id for task in tasks] == [prompt.id for prompt in PROMPTS]
    assert tasks[0].data.prompt == "Hi"
    assert [turn.role for turn in tasks[1].data.prompt] == ["user", "assistant", "user"]
    assert environment().config.agent.harness.id == "null"


def test_rewards_are_the_parts_of_the_server_s(package: ModuleType) -> None:
    first, second = environment().taskset
    trace = trace_of(first, "one two")
    asyncio.run(first.score(trace))
    assert {name: reward.value for name, reward in trace.rewards.items()} == {
        "pm": 2.0,
        "rubric": 1.0,
    }
    assert trace.reward == 3.0
    trace = trace_of(second, "one two")
    asyncio.run(second.score(trace))
    assert list(trace.rewards) == ["pm"]


@pytest.mark.parametrize("reply", ["who knows", "boom"])
def test_an_unknown_reward_is_an_error_of_the_trace(package: ModuleType, reply: str) -> None:
    task = next(iter(environment().taskset))
    trace = trace_of(task, reply)
    with pytest.raises(vf.TaskError, match="a reward is unknown"):
        asyncio.run(task.score(trace))
    assert trace.rewards == {"constitution": None}


def test_replies_of_an_episode_are_ranked(package: ModuleType) -> None:
    env = environment(replies=3, rank_weight=2.0)
    task = next(iter(env.taskset))
    traces = [trace_of(task, reply) for reply in ("a b c", "a", "a b")]
    failed = trace_of(task, "a b c d")
    failed.ok = False
    episode = vf.Episode(task=traces[0].task, traces=[*traces, failed])
    asyncio.run(env.finalize(task, episode))
    assert [trace.rewards["rank"].value for trace in traces] == [2.0, 0.0, 1.0]
    assert "rank" not in failed.rewards
    unclear = vf.Episode(task=traces[0].task, traces=[trace_of(task, r) for r in ("a", "unclear")])
    with pytest.raises(RuntimeError, match="a reward is unknown"):
        asyncio.run(env.finalize(task, unclear))


def test_a_prompt_that_no_principle_compares_has_no_ranks(package: ModuleType) -> None:
    env = environment(replies=2, rank_weight=1.0)
    _, task = env.taskset
    episode = vf.Episode(
        task=trace_of(task, "a").task, traces=[trace_of(task, reply) for reply in ("a", "b")]
    )
    asyncio.run(env.finalize(task, episode))
    assert [trace.rewards for trace in episode.traces] == [{}, {}]
    assert package.NOT_COMPARED == NOT_COMPARED


def test_ranks_need_other_replies(package: ModuleType) -> None:
    with pytest.raises(ValueError, match="set replies to 2 or more"):
        environment(replies=1, rank_weight=1.0)
    assert json.loads(environment().config.model_dump_json())["replies"] == 1

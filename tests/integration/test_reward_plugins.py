"""The reward plug-ins of OpenRLHF and verl, called as the engines call them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from reward_toys import HI, PLUGINS, TOKEN, by_length, reward_run_file, serving, url_of

from cai.cli.serve import run_end_texts
from cai.integrations.reward_batching import RewardTable
from cai.integrations.reward_server import RewardServer
from cai.records import Prompt
from cai.reward.composite import RewardWeights


def plugin(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PLUGINS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def configured(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables that point the plug-ins to the server."""
    monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)


def values(logs: dict[str, Any]) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in logs.items()}


@pytest.mark.usefixtures("configured")
def test_openrlhf_gets_tensors() -> None:
    """Called in threads with one row, as the engine does; the label brings kind and chat."""
    label = json.dumps({"kind": "benign", "chat": [{"role": "user", "content": "Hi"}]})
    reward_func = plugin("openrlhf_reward").reward_func

    async def in_thread() -> dict[str, Any]:
        call = asyncio.to_thread(reward_func, ["<s>Hi a b c"], ["<s>Hi"], [label])
        return await asyncio.wait_for(call, 20)

    result = asyncio.run(in_thread())
    assert result["rewards"].tolist() == [4.0]
    assert 0 < result["scores"].item() < 1
    expected = {"pm": [3.0], "rubric": [1.0], "cai_error": [0.0]}
    assert values(result["extra_logs"]) == expected


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("label", [None, "no JSON", "3", json.dumps({"kind": "odd"})])
@pytest.mark.parametrize("reply", ["a b", "who knows", "boom", "x" * 9000, "\ud800"])
def test_openrlhf_never_raises(label: str | None, reply: str) -> None:
    result = plugin("openrlhf_reward").reward_func([f"Hi {reply}"], ["Hi"], [label])
    assert result["rewards"].shape == result["scores"].shape == (1,)
    good = reply == "a b" and label != json.dumps({"kind": "odd"})
    assert result["extra_logs"]["cai_error"].tolist() == [0.0 if good else 1.0]


def test_openrlhf_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAI_REWARD_URL", "http://127.0.0.1:9")
    result = plugin("openrlhf_reward").reward_func(["a", "b"], ["a", "b"], None)
    assert result["extra_logs"]["cai_error"].tolist() == [1.0, 1.0]


@pytest.mark.usefixtures("configured")
def test_openrlhf_queries_without_their_prompt_are_not_scored() -> None:
    """The reply is unknown: the row gets `cai_error`, the other rows their rewards."""
    reward_func = plugin("openrlhf_reward").reward_func
    result = reward_func(["Hi a b", "Other a b c", "Hi a"], ["Hi"] * 3, None)
    assert result["rewards"].tolist() == [2.0, 0.0, 1.0]
    assert values(result["extra_logs"]) == {
        "pm": [2.0, 0.0, 1.0],
        "rubric": [0.0, 0.0, 0.0],
        "cai_error": [0.0, 1.0, 0.0],
    }
    result = reward_func(["Other"], ["Hi"], None)
    assert result["rewards"].tolist() == [0.0]
    assert result["extra_logs"]["cai_error"].tolist() == [1.0]


@pytest.mark.parametrize("finetuned", [False, True])
@pytest.mark.parametrize("padding", [0, 3])
def test_openrlhf_s_end_tokens_do_not_reach_the_reward(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finetuned: bool, padding: int
) -> None:
    """The reward scores the same reply of a row of tokens as `cai ppo` does.

    The engine decodes the whole row, special tokens included.
    """
    from cai.modeling.tokenization import load_renderer

    (tmp_path / "out").mkdir()
    if finetuned:
        (tmp_path / "out" / "20-sft").symlink_to(tiny_model)
    model = "http://127.0.0.1:9" if finetuned else f"local:{tiny_model}"
    end_texts = run_end_texts(reward_run_file(tmp_path, model))
    renderer = load_renderer(tiny_model)
    scored_replies: list[str] = []

    def score(prompts: Sequence[Prompt], replies: Sequence[str]) -> RewardTable:
        scored_replies.extend(replies)
        return by_length(prompts, replies)

    prompt_ids = renderer.prompt_ids(HI.chat)
    reply_ids = renderer.response_ids("Hello, 1<|im_end|>2. ") + [renderer.pad_token_id] * padding
    decode = renderer.tokenizer.decode
    with serving(score, end_texts) as server:
        monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
        monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
        query = decode(prompt_ids + reply_ids)
        assert query.endswith("2. <|im_end|>" + "<|im_end|>" * padding)
        result = plugin("openrlhf_reward").reward_func([query], [decode(prompt_ids)], ["{}"])
    assert result["extra_logs"]["cai_error"].tolist() == [0.0]
    assert scored_replies == ["Hello, 1<|im_end|>2."] == [renderer.text(reply_ids)]


@pytest.mark.usefixtures("configured")
def test_verl_has_always_the_same_keys() -> None:
    score = plugin("verl_reward").compute_score
    info = {"chat": json.dumps([{"role": "user", "content": "Hi"}]), "kind": "benign"}
    known = score("cai", "a b", "", info)
    assert (known["score"], known["pm"], known["cai_error"]) == (3.0, 2.0, 0.0)
    others = [
        score("cai", "who knows", "", info),
        score("cai", "a", "", None),
        score("cai", "boom", "", info),
        score("cai", "a", "", info, server_url="http://127.0.0.1:9"),
    ]
    assert all(result.keys() == known.keys() for result in others)
    assert [result["cai_error"] for result in others] == [1.0] * 4


def test_verl_has_a_key_for_every_part_of_the_reward() -> None:
    """Each weight of the mix is a part; the plug-in would drop one that is not in its keys."""
    parts = set(RewardWeights.model_fields) - {"free_words"}
    assert set(plugin("verl_reward").KEYS) == parts | {"score", "cai_error"}

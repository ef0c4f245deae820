"""The plug-ins called by OpenRLHF's and AReaL's own code, where their files are importable.

Both packages import CUDA libraries at their top. Their dispatch of rewards needs none of them:
packages without those first lines stand in front of it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from engine_toys import CharacterTokenizer
from reward_toys import TOKEN, by_length, serving, url_of

from cai.integrations.plugins import plugin_source
from cai.integrations.reward_requests import Limits
from cai.integrations.reward_server import RewardServer

TURNS = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with serving(by_length, limits=Limits(timeout_s=20)) as running:
        yield running


@pytest.fixture
def folder(server: RewardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the plug-ins, as modules; the environment points them to the server."""
    monkeypatch.setenv("CAI_REWARD_URL", url_of(server))
    monkeypatch.setenv("CAI_REWARD_TOKEN", TOKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("areal_reward", "openrlhf_reward"):
        (tmp_path / f"{name}.py").write_text(plugin_source(name), encoding="utf-8")
    return tmp_path


def imported(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of an installed package, without the first lines of the packages above it."""
    parts = name.split(".")
    spec = find_spec(parts[0])
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"{parts[0]} is not installed")
    path = Path(next(iter(spec.submodule_search_locations)))
    for end in range(1, len(parts)):
        package = ModuleType(".".join(parts[:end]))
        package.__path__ = [str(path.joinpath(*parts[1:end]))]
        monkeypatch.setitem(sys.modules, package.__name__, package)
    return importlib.import_module(name)


class Tokenizer(CharacterTokenizer):
    """As the engine calls it: a text in, a tensor of ids out."""

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        import torch

        return {"input_ids": torch.tensor([[ord(letter) for letter in text]])}


@pytest.mark.parametrize("filters", [False, True])
def test_openrlhf_runs_the_function(
    folder: Path, monkeypatch: pytest.MonkeyPatch, filters: bool
) -> None:
    """A known reward reaches the sample. An unknown one is None, or NaN where the engine filters:
    None is no sample without reward but the end, as the engine has no other reward model."""
    monkeypatch.setenv("CAI_REWARD_UNKNOWN", "filter" if filters else "")
    agent = imported("openrlhf.utils.agent", monkeypatch)
    executor = agent.SingleTurnAgentExecutor(str(folder / "openrlhf_reward.py"))

    class Engine:
        def __init__(self, text: str) -> None:
            self.text = text

        async def generate(self, ids: list[int], *_: Any, **__: Any) -> Any:
            tokens = [ord(letter) for letter in self.text]
            output = SimpleNamespace(token_ids=tokens, finish_reason="stop", logprobs=None)
            return SimpleNamespace(outputs=[output])

    async def rollout(text: str) -> dict[str, Any]:
        label = json.dumps({"chat": TURNS, "kind": "benign"})
        params = SimpleNamespace(max_tokens=9, logprobs=None)
        result = await executor.execute("Hi", label, params, 99, Tokenizer(), Engine(text))
        return dict(result)

    known = asyncio.run(rollout(" a b"))
    assert known["reward"].tolist() == [3.0]
    assert known["extra_logs"]["rubric"].tolist() == [1.0]
    unknown = asyncio.run(rollout(" who knows"))
    if filters:
        assert math.isnan(unknown["reward"].item())
        assert math.isnan(unknown["scores"].item())
        assert unknown["extra_logs"]["cai_error"].tolist() == [1.0]
    else:
        assert unknown["reward"] is None
        assert unknown["scores"] is None


def test_areal_runs_the_function_in_its_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward_api = imported("areal.api.reward_api", monkeypatch)
    function = importlib.import_module("areal_reward").reward_fn
    wrapper = reward_api.AsyncRewardWrapper(function, max_workers=1, max_retries=0)
    row = {"messages": TURNS, "kind": "benign", "id": "x"}

    async def score(reply: str) -> float:
        return float(await wrapper("<s>Hi", reply, [1], [2], **row))

    try:
        assert asyncio.run(score(" a b")) == 3.0
        with pytest.raises(RuntimeError, match="a reward is unknown"):
            asyncio.run(score(" who knows"))
    finally:
        reward_api.AsyncRewardWrapper._atexit_shutdown_all()
        del sys.modules["areal_reward"]

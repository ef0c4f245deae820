"""The reward plug-ins as modules, and the parts of verl that they touch.

Where verl is installed, its own classes are used. Elsewhere these stand for them: they have the
names, arguments and results of verl 0.9.1.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from cai.integrations.plugins import plugin_source

HAS_VERL = find_spec("verl") is not None
WIDTH = 40
"""Tokens of a padded reply."""


class RewardManagerBase:
    """verl.experimental.reward_loop.reward_manager.base.RewardManagerBase."""

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any) -> None:
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score


class Data:
    """A verl.DataProto of rows."""

    def __init__(self, batch: dict[str, Any], non_tensor_batch: dict[str, Any]) -> None:
        self.batch, self.non_tensor_batch = batch, non_tensor_batch

    def __getitem__(self, key: Any) -> Data:
        def take(columns: dict[str, Any]) -> dict[str, Any]:
            return {name: column[key] for name, column in columns.items()}

        return Data(take(self.batch), take(self.non_tensor_batch))


class CharacterTokenizer:
    """A token is a character."""

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(chr(int(token)) for token in ids)


def reply_batch(replies: Sequence[str], extra: Sequence[dict[str, Any] | None]) -> Any:
    """Replies as a batch of verl: padded, with `extra_info` and the chat of each."""
    responses = torch.zeros(len(replies), WIDTH, dtype=torch.int64)
    mask = torch.zeros(len(replies), 2 + WIDTH, dtype=torch.int64)
    for row, reply in enumerate(replies):
        responses[row, : len(reply)] = torch.tensor([ord(letter) for letter in reply])
        mask[row, : 2 + len(reply)] = 1
    prompts = torch.full((len(replies), 2), ord("p"))
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": mask}
    chat = [{"role": "user", "content": "Hi"}]
    columns = {
        "extra_info": list(extra),
        "raw_prompt": [chat] * len(replies),
        "data_source": ["cai"] * len(replies),
        "reward_model": [{"style": "rule", "ground_truth": ""}] * len(replies),
    }
    arrays = {name: _object_array(column) for name, column in columns.items()}
    if HAS_VERL:
        from verl import DataProto

        return DataProto.from_dict(tensors=tensors, non_tensors=arrays)
    return Data(tensors, arrays)


def _object_array(rows: Sequence[Any]) -> Any:
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def plugin(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The text that `cai export` writes as a module, with shorter pauses."""
    if name == "verl_reward" and not HAS_VERL:
        modules = {
            "verl.experimental.reward_loop.reward_manager.base": {
                "RewardManagerBase": RewardManagerBase
            },
            "verl.trainer.ppo.core_algos": {"ADV_ESTIMATOR_REGISTRY": {}},
        }
        for path, members in modules.items():
            parts = path.split(".")
            for end in range(1, len(parts) + 1):
                module = types.ModuleType(".".join(parts[:end]))
                monkeypatch.setitem(sys.modules, module.__name__, module)
            vars(module).update(members)
    module = ModuleType(name)
    exec(plugin_source(name), vars(module))  # noqa: S102  # our own text
    module.WAITS_S = (0.01, 0.02)  # type: ignore[attr-defined]
    return module

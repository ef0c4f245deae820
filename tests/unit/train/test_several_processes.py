"""Fine-tuning and the preference model in two processes: the numbers of one, kills, sharding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import training_ranks
from forked_ranks import run_forked_ranks
from pydantic import ValidationError
from safetensors.torch import load_file

from cai.reward.preference_folder import open_preference_model
from cai.train.preference import RewardConfig
from cai.train.sft import SFTConfig

pytestmark = [
    pytest.mark.slow,  # two processes train in each mode
    pytest.mark.filterwarnings("ignore"),  # the trainer and its data library warn about each other
]
MODES = [*training_ranks.SFT_MODES, *training_ranks.REWARD_MODES]


@pytest.fixture(scope="module")
def one(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of this process, in each mode."""
    folder = tmp_path_factory.mktemp("one")
    training_ranks.train_all(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def two(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two processes, one of which was killed, in each mode."""
    folder = tmp_path_factory.mktemp("two")
    work = lambda: training_ranks.train_together(tiny_model, folder)  # noqa: E731
    run_forked_ranks(work, folder / "log", restarts=1)
    return folder


def results(folder: Path, rank: int = 0) -> dict[str, Any]:
    return dict(json.loads((folder / f"results-{rank}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_train_the_weights_of_one(one: Path, two: Path, mode: str) -> None:
    """Same gradients, steps, losses by token or by pair, clipping, best epoch, normalized scores:
    weights to float tolerance. Some steps have no row for the second process.

    Sharded weights are trained with activations computed again, and are saved as those of one.
    """
    for file in sorted((one / mode).rglob("*.safetensors")):
        expected, weights = (load_file(f / file.relative_to(one)) for f in (one, two))
        assert expected.keys() == weights.keys()
        for name in expected.keys() - {"head.bias"}:  # it adds the same to both replies of a pair
            tensor = expected[name]
            torch.testing.assert_close(weights[name], tensor, atol=2e-5, rtol=1e-3)
    mine, first, second = results(one), results(two), results(two, 1)
    assert first == second, "both processes know the results"
    assert first["norms"][mode] == pytest.approx(mine["norms"][mode], rel=1e-4)
    assert first["results"][mode] == pytest.approx(mine["results"][mode], abs=1e-3)
    names = ({path.relative_to(f / mode) for path in (f / mode).rglob("*")} for f in (one, two))
    assert next(names) == next(names), "the same files, and no checkpoint is left"


def test_a_killed_process_loses_nothing_that_was_saved(one: Path, two: Path) -> None:
    """Fine-tuning was killed (SIGKILL of one process) after the first of two epochs of three steps;
    the preference model in its fifth step, with a checkpoint after every second.
    """
    steps = results(two)["steps"]
    assert steps["sft-shard"] == [4, 5, 6]
    assert steps["sft-lora"] == [1, 2, 3, 4, 5, 6]
    total = results(one)["steps"]["reward-lora"][-1]
    assert steps["reward-lora"] == steps["reward-shard"] == list(range(5, total + 1))


def test_a_sharded_preference_model_is_opened_like_any_other(two: Path) -> None:
    """It needs no base: the model is in its folder."""
    opened = open_preference_model(two / "reward-shard")
    scores = opened.score([(training_ranks.HELLO, "z"), (training_ranks.HELLO, "a")])
    assert all(score is not None for score in scores)


@pytest.mark.parametrize("config", [SFTConfig, RewardConfig])
def test_adapters_are_not_sharded(config: type[SFTConfig] | type[RewardConfig]) -> None:
    with pytest.raises(ValidationError, match="only full fine-tuning shards"):
        config(shard=True)

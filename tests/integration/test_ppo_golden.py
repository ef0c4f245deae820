"""Golden numbers of PPO on the tiny model, which a rewrite of the trainer must not change.

The stored file holds metrics and sums of weights after three updates, computed in float32 with one
thread and kernels that are the same on every x86-64 processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ppo_toys import CONFIG, fresh_actor, high_byte_shares, with_settings, word_prompts
from toys import save_tiny

from cai.modeling.loading import load_model
from cai.modeling.tokenization import load_renderer
from cai.records import Kind
from cai.train.ppo.actor import Actor, FullActor
from cai.train.ppo.critic import Critic
from cai.train.ppo.rollout import RewardTable, Rollout
from cai.train.ppo.trainer import PPOTrainer

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
}
STORED = json.loads((Path(__file__).parent / "ppo_golden.json").read_text())
KINDS: tuple[Kind, ...] = ("disallowed", "sensitive", "benign")
PROMPTS = word_prompts(7, KINDS)
TEXTS = [([5, 9, 33, 70], [40 + i, 61, 257]) for i in range(5)]
COMMON = with_settings(
    CONFIG,
    num_updates=3,
    prompts_per_update=5,
    temperature=1.3,
    num_minibatches=5,
    micro_batch_size=2,
    learning_rate=1e-2,
    lam=0.9,
    value_lam=0.9,
    value_clip_range=0.2,
    missing_eos_penalty=0.3,
    ema_decay=0.9,
    lr_warmup_steps=4,
    ptx={"coef": 0.2, "batch_size": 3},
)
CASES: dict[str, dict[str, Any]] = {
    "lora": {"center_by_kind": True, "kl": {"coef": 0.3, "target": 0.5, "horizon": 100}},
    "lora_one_block": {
        "num_trainable_layers": 1,
        "critic_warmup_updates": 1,
        "scale_rewards": True,
        "whiten_advantages": False,
        "kl": {"coef": 0.1, "stop": 0.02},
        "shares": {"disallowed": 2, "benign": 1},
    },
    "full": {"mode": "full", "kl": {"coef": 0.2}},
}


def reward(rollouts: Sequence[Rollout]) -> RewardTable:
    short = [None if i == 3 else -len(r.response_ids) / 10 for i, r in enumerate(rollouts)]
    return {"high": high_byte_shares(rollouts), "short": short}


def trained(tiny: Path, folder: Path, name: str) -> dict[str, Any]:
    config = with_settings(COMMON, **CASES[name])
    actor: Actor = fresh_actor(tiny, config)
    if config.mode == "full":
        torch.manual_seed(0)
        actor = FullActor(load_model(str(tiny)), load_model(str(tiny)))
    trainer = PPOTrainer(actor, load_renderer(tiny), reward, config, seed=5)
    # the numbers are of critics that begin at zero
    with mock.patch.object(Critic, "init_from_rewards"):
        history = trainer.train(PROMPTS, folder, TEXTS)
    sums = [float(p.detach().double().sum()) for p in actor.trainable_parameters()]
    return {"history": history, "weights": sums}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All cases, trained in a process whose kernels do not depend on the processor."""
    folder = tmp_path_factory.mktemp("golden")
    command = [sys.executable, __file__, str(folder)]
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = os.environ | PORTABLE | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


# three trainings in another process, with portable and so slow kernels
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_rewrite_moves_no_number(results: dict[str, Any], name: str) -> None:
    """Equal to the last printed digit on the machine that computed them; other math libraries may
    round differently.
    """
    for row, stored in zip(results[name]["history"], STORED[name]["history"], strict=True):
        assert stored.keys() <= row.keys()
        for key, value in stored.items():
            assert row[key] == pytest.approx(value, rel=1e-6, abs=1e-6), key
    assert results[name]["weights"] == pytest.approx(STORED[name]["weights"], rel=1e-5, abs=1e-5)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    # saved in this process: its random weights depend on the kernels, too
    model = save_tiny(target / "model")
    cases = {}
    for case in CASES:
        (target / case).mkdir()
        cases[case] = trained(model, target / case, case)
    (target / "results.json").write_text(json.dumps(cases))

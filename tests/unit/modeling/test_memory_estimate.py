"""The memory estimate, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import random_llama

from cai.modeling import memory_estimate as memory
from cai.modeling.memory_estimate import ModelShape, config_shape, model_shape
from cai.pipeline import memory_plan
from cai.pipeline.config import ResolvedRun, Run
from cai.pipeline.memory_plan import memory_lines, published_models, stage_memories

SHAPE = ModelShape(
    parameters=5000,
    layers=4,
    hidden=10,
    intermediate=30,
    heads=5,
    key_heads=1,
    head_width=2,
    vocabulary=100,
    adapted=400,
)


def test_the_formula_by_hand() -> None:
    """Weights: 5000 x 2 or 4 bytes, or 3000 x 2 and 2 x 100 x 10 of the vocabulary x 4. Adapter
    of rank 3 on two of four blocks: 3 x 400 x 2 / 4 = 600
    weights; each takes 4 (itself) + 4 (gradient) + 8 (moments) bytes, one of the base's without the
    first. Cache of 7 tokens: keys and values x 4 layers x 1 head x 2 x 7 x 2 bytes = 224. A block
    keeps 8 x 10 + 3 x 30 + 2 x (5 + 1) x 2 = 194 numbers a token: two blocks and the one that runs,
    7 tokens, 4 bytes: 16,296. Computed again, the two keep their inputs, 10 numbers each, beside
    one of them in full and the one that runs: (2 x 10 + 2 x 194) x 7 x 4 = 11,424.
    Logits: 3 x 7 x 100 x 4 = 8,400.
    """
    assert memory.weight_bytes(SHAPE, torch.bfloat16) == 10_000
    assert memory.weight_bytes(SHAPE, torch.float32) == 20_000
    assert memory.frozen_bytes(SHAPE, torch.bfloat16) == 14_000
    assert memory.frozen_bytes(SHAPE, torch.float32) == 20_000
    assert memory.adapter_parameters(SHAPE, 3, 2) == 600
    assert memory.adapter_parameters(SHAPE, 3, None) == memory.adapter_parameters(SHAPE, 3, 9)
    assert memory.learning_bytes(600, are_new=True) == 9600
    assert memory.learning_bytes(600, are_new=False) == 7200
    assert memory.cache_bytes(SHAPE, 7, torch.bfloat16) == 224
    assert memory.activation_bytes(SHAPE, 7, 2) == 16_296
    assert memory.activation_bytes(SHAPE, 7, 2, are_recomputed=True) == 11_424
    assert memory.logit_bytes(SHAPE, 7) == 8400


def test_the_shape_of_a_configuration(tiny_model: Path) -> None:
    """A Llama of width 32, MLP 64, 4 heads of 8 on 2 key heads, 2 layers, tied: 258 x 32 for the
    embeddings; a layer has 2 x 32 x 32 + 2 x 32 x 16 + 3 x 32 x 64 + 2 x 32 = 9,280; 32 at the end:
    26,848. Linear layers of a block: 64 + 48 + 48 + 64 + 96 + 96 + 96 = 512 inputs and outputs.
    """
    want = ModelShape(26_848, 2, 32, 64, 4, 2, 8, 258, 1024)
    assert model_shape(str(tiny_model)) == want
    untied = config_shape(random_llama(258, num_hidden_layers=2).config)
    assert untied.parameters == 26_848 + 258 * 32


def run_of(**sections: object) -> Run:
    return Run.model_validate(
        {"name": "x", "constitution": "helpful_honest", "prompts": ["p.jsonl"], **sections}
    )


def test_stages_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full fine-tuning with float32 products: weights 20,000; gradient and moments 60,000; a batch
    of 2 x 8 tokens keeps 5 blocks x 194 x 16 x 4 = 62,080 and logits 3 x 16 x 100 x 4 = 19,200.
    PPO in full: policy and reference, 40,000, and the policy learns.
    """
    monkeypatch.setattr(memory_plan, "matmul_dtype", lambda: torch.float32)
    monkeypatch.setattr(memory_plan, "frozen_dtype", lambda: torch.float32)
    run = run_of(sft={"mode": "full", "batch_size": 2, "max_length": 8}, ppo={"mode": "full"})
    stages = {stage.stage: stage for stage in stage_memories(run, SHAPE)}
    assert stages["sft"].parts == {
        "weights": 20_000,
        "learning": 60_000,
        "activations": 62_080,
        "logits": 19_200,
    }
    assert stages["sft"].total == 161_280
    assert stages["ppo"].parts["weights"] == 40_000
    assert stages["ppo"].parts["learning"] == 60_000
    assert stages["sampling"].parts["weights"] == 20_000


def test_activations_that_are_computed_again_are_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A token of four blocks: 4 x 10 + 2 x 194 = 428 numbers, and 5 x 194 = 970 without. PPO's
    micro-batch has 64 x (256 + 48) tokens, beside logits of 128: 3 x 128 x 100 x 4 = 153,600.
    """
    monkeypatch.setattr(memory_plan, "matmul_dtype", lambda: torch.float32)

    def kept(*, again: bool) -> list[int]:
        setting = {"gradient_checkpointing": again}
        run = run_of(
            sft={"batch_size": 2, "max_length": 8} | setting,
            reward={"batch_size": 1} | setting,
            pair={"max_tokens": 100},
            ppo={"optimization": {"micro_batch_size": 64}} | setting,
        )
        stages = {stage.stage: stage.parts for stage in stage_memories(run, SHAPE)}
        ppo = stages["ppo"]["activations or cache"] - 153_600
        return [stages["sft"]["activations"], stages["reward"]["activations"], ppo]

    tokens = (2 * 8, 2 * (256 + 100), 64 * (256 + 48))
    assert kept(again=False) == [970 * 4 * count for count in tokens]
    assert kept(again=True) == [428 * 4 * count for count in tokens]


def test_lora_on_a_gpu_keeps_the_base_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base as above, and a copy in bfloat16 to sample from."""
    monkeypatch.setattr(memory_plan, "matmul_dtype", lambda: torch.bfloat16)
    monkeypatch.setattr(memory_plan, "frozen_dtype", lambda: torch.bfloat16)
    stages = {stage.stage: stage for stage in stage_memories(run_of(), SHAPE)}
    assert stages["sft"].parts["weights"] == stages["reward"].parts["weights"] == 14_000
    assert stages["ppo"].parts["weights"] == 24_000


def test_published_models_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes a weight: 5,000 of a critic, 10,000 of a reward model. Nothing learns to score."""
    monkeypatch.setattr(memory_plan, "matmul_dtype", lambda: torch.bfloat16)
    run = run_of(reward_model="local:scorer", ppo={"critic": "local:large"})
    assert published_models(run) == {"ppo.critic": "local:large", "reward_model": "local:scorer"}
    others = {"ppo.critic": SHAPE, "reward_model": replace(SHAPE, parameters=10_000)}
    stages = {stage.stage: stage for stage in stage_memories(run, SHAPE, others)}
    assert stages["reward"].parts == {"weights": 20_000}
    assert stages["ppo"].parts["ppo.critic"] == 10_000
    assert stages["ppo"].parts["reward_model"] == 20_000


def test_lines_for_the_user(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against free memory; unknown is said with its reason; an endpoint takes none here."""

    def lines(model: str) -> list[str]:
        run = run_of(model=model)
        folder = Path("run")
        return memory_lines(
            ResolvedRun(run=run, folder=folder, constitution=folder, prompts=(folder,))
        )

    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 40)
    (line,) = lines(f"local:{tiny_model}")
    assert line.startswith("memory: sampling 0.0 GiB, sft 0.0 GiB, reward 0.0 GiB, ppo 0.0 GiB")
    assert line.endswith("; free: 1024.0 GiB")
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    assert "memory: ppo may not fit (weights 0.0 GiB, " in lines(f"local:{tiny_model}")[-1]
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert lines(f"local:{tiny_model}")[0].endswith("free: unknown")
    assert lines("local:./nowhere") == [], "the stage that needs the model says so"
    assert lines("http://h/v1#m") == []


def test_free_memory_is_known_here() -> None:
    free = memory.free_bytes()
    assert free is None or free > 1 << 20

"""The memory that a run's stages will take, stage by stage, and whether there is as much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from cai.errors import CaiError
from cai.modeling import memory_estimate as memory
from cai.modeling.batch_limits import CPU_LIMITS, BatchLimits, gpu_limits, head_tokens
from cai.modeling.memory_estimate import ModelShape
from cai.modeling.model_files import local_model_name, resolve_model_path, training_weights
from cai.modeling.precision import device, frozen_dtype, matmul_dtype
from cai.pipeline.config import ResolvedRun, Run
from cai.train.ppo.experience import micro_batch_size
from cai.train.ppo.rollout import SAMPLING_BATCH

PROMPT_TOKENS = 256
"""Of a prompt, where the settings do not say how long one is."""
GIB = 1 << 30


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one stage at its peak, by what they are for."""

    stage: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def stage_memories(
    run: Run, shape: ModelShape, others: Mapping[str, ModelShape] | None = None
) -> list[StageMemory]:
    """Of the stages that run a model of this shape in this process, in order.

    Args:
        shape: of the model that learns; a judge of its own is not counted.
        others: shapes of the models that others trained, by their key (see `published_models`).
    """
    others = others or {}
    longest = max(run.revise.max_tokens, run.pair.max_tokens, run.eval.max_tokens)
    return [
        StageMemory("sampling", _sampling(shape, _limits(shape), longest)),
        StageMemory("sft", _sft(run, shape)),
        StageMemory("reward", _reward(run, shape, others.get("reward_model"))),
        StageMemory("ppo", _ppo(run, shape) | _weights(others)),
    ]


def published_models(run: Run) -> dict[str, str]:
    """Key -> spec of the models besides the one that learns which PPO has in memory."""
    specs = {"ppo.critic": run.ppo.critic_model, "reward_model": run.reward_model}
    return {key: spec for key, spec in specs.items() if spec is not None}


def _weights(others: Mapping[str, ModelShape]) -> dict[str, int]:
    return {key: memory.weight_bytes(shape, matmul_dtype()) for key, shape in others.items()}


def _limits(shape: ModelShape) -> BatchLimits:
    free = memory.free_bytes() if device().type == "cuda" else None
    if free is None:
        return CPU_LIMITS
    dtype = matmul_dtype()
    return gpu_limits(
        max(0, free - memory.weight_bytes(shape, dtype)), memory.cache_bytes(shape, 1, dtype)
    )


def _sampling(shape: ModelShape, limits: BatchLimits, new: int) -> dict[str, int]:
    dtype, rows = matmul_dtype(), limits.rows
    return {
        "weights": memory.weight_bytes(shape, dtype),
        "cache": memory.cache_bytes(shape, limits.tokens + rows * new, dtype),
        "logits": memory.logit_bytes(shape, rows),
    }


def _sft(run: Run, shape: ModelShape) -> dict[str, int]:
    config = run.sft
    is_lora = config.mode == "lora"
    trained = config.num_trainable_layers if is_lora else None
    learning = memory.adapter_parameters(shape, config.lora_rank, trained)
    tokens = config.batch_size * config.max_length
    return {
        "weights": memory.frozen_bytes(shape, frozen_dtype())
        if is_lora
        else memory.weight_bytes(shape, torch.float32),
        "learning": memory.learning_bytes(
            learning if is_lora else shape.parameters, are_new=is_lora
        ),
        "activations": memory.activation_bytes(
            shape, tokens, trained, are_recomputed=config.gradient_checkpointing
        ),
        "logits": memory.logit_bytes(shape, tokens),
    }


def _reward(run: Run, shape: ModelShape, published: ModelShape | None) -> dict[str, int]:
    if published is not None:  # it is scaled, and nothing learns
        return _weights({"weights": published})
    config = run.reward
    tokens = 2 * config.batch_size * (PROMPT_TOKENS + run.pair.max_tokens)
    adapter = memory.adapter_parameters(shape, config.lora_rank, config.num_trainable_layers)
    return {
        "weights": memory.frozen_bytes(shape, frozen_dtype()),
        "learning": memory.learning_bytes(adapter, are_new=True),
        "activations": memory.activation_bytes(
            shape,
            tokens,
            config.num_trainable_layers,
            are_recomputed=config.gradient_checkpointing,
        ),
    }


def _ppo(run: Run, shape: ModelShape) -> dict[str, int]:
    """Sampling and learning take turns: the larger of their needs counts."""
    config = run.ppo
    is_lora = config.mode == "lora"
    new = config.rollout.max_new_tokens
    copy = matmul_dtype() != torch.float32
    weights = memory.frozen_bytes(shape, frozen_dtype())
    weights += 0 if is_lora else memory.weight_bytes(shape, torch.float32)
    # full training has a reference in any case, and the preference model's base may be another
    needs_another = config.reference == "base" and (is_lora or run.reward_weights.pm > 0)
    weights += memory.frozen_bytes(shape, frozen_dtype()) if needs_another else 0
    weights += memory.weight_bytes(shape, matmul_dtype()) if copy else 0
    trained = config.num_trainable_layers
    adapter = memory.adapter_parameters(shape, config.lora_rank, trained)
    tokens = micro_batch_size(config, device()) * (PROMPT_TOKENS + new)
    rows = _limits(shape).rows if device().type == "cuda" else SAMPLING_BATCH
    sampling = _sampling(shape, BatchLimits(rows, rows * PROMPT_TOKENS), new)
    learning = memory.activation_bytes(
        shape, tokens, trained, are_recomputed=config.gradient_checkpointing
    )
    learning += memory.logit_bytes(shape, head_tokens(device()))
    return {
        "weights": weights,
        "learning": memory.learning_bytes(
            adapter if is_lora else shape.parameters, are_new=is_lora
        ),
        "activations or cache": max(learning, sampling["cache"] + sampling["logits"]),
    }


def memory_lines(resolved: ResolvedRun) -> list[str]:
    """Lines for the user: the stages' estimates against what is free. None for a model
    that cannot be read: its stage says so.
    """
    return list(_lines(resolved))


def _lines(resolved: ResolvedRun) -> Iterator[str]:
    run = resolved.run
    name = local_model_name(run.model)
    if name is None:
        return
    try:
        shape = memory.model_shape(resolve_model_path(name))
        others = {
            key: memory.model_shape(training_weights(spec))
            for key, spec in published_models(run).items()
        }
    except CaiError:
        return  # the stage that needs such a model says what is wrong with it
    free = memory.free_bytes()
    stages = stage_memories(run, shape, others)
    yield f"memory: {_listed(stages)}; free: {_gib(free)}"
    if free is not None:
        for stage in stages:
            if stage.total > free:
                parts = ", ".join(f"{name} {_gib(size)}" for name, size in stage.parts.items())
                yield (
                    f"memory: {stage.stage} may not fit ({parts}): batches are halved where memory "
                    "runs out"
                )


def _listed(stages: Sequence[StageMemory]) -> str:
    return ", ".join(f"{stage.stage} {_gib(stage.total)}" for stage in stages)


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"

"""The digest that a run's state must match to be resumed, and its metrics so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai.errors import StoreError, blame
from cai.modeling.precision import matmul_dtype
from cai.records import Prompt
from cai.reward import hacking
from cai.store import append_bytes, atomic_write, digest, truncate_torn_line
from cai.train.distributed import barrier, rank
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.ptx import PtxText
from cai.train.ppo.sampler_gap import warn_of_sampler_gap


def state_digest(
    config: PPOConfig, prompts: Sequence[Prompt], texts: Sequence[PtxText], seed: int
) -> str:
    """Digest of what a run's state depends on besides its weights. More updates, or other times to
    save, continue the same state; but not where the KL controller's horizon follows from the number
    of updates. So do weights that are spread otherwise, and activations that are computed again.
    """
    prompt_keys = [f"{prompt.id} {prompt.kind} {prompt.category}" for prompt in prompts]
    settings = config.model_dump_json(
        exclude={
            "num_updates": True,
            "save_every": True,
            "shard": True,
            "gradient_checkpointing": True,
            "kl": {"horizon"},
        }
    )
    horizon = str(config.kl_horizon) if config.kl.target is not None else ""
    text_key = digest(json.dumps(texts)) if texts else "0"
    return digest(settings, horizon, str(seed), str(matmul_dtype()), text_key, *prompt_keys)


def read_history(file: Path, num_updates: int) -> list[dict[str, Any]]:
    """Metrics of the first `num_updates` updates; lines that a kill left beyond them are cut from
    the file.
    """
    if rank() == 0:
        truncate_torn_line(file)
    barrier()
    lines = file.read_text(encoding="utf-8").splitlines()[:num_updates] if file.exists() else []
    barrier()
    if rank() == 0:
        atomic_write(file, "".join(line + "\n" for line in lines))
    with blame(StoreError, f"{file}: not the metrics of this version, or edited"):
        return [dict(json.loads(line)) for line in lines]


def append_update(file: Path, history: list[dict[str, Any]], metrics: dict[str, Any]) -> None:
    """Add an update's metrics to the history and to the file, with the number of signs of reward
    hacking in them. What is new and wrong is a line on standard error.
    """
    history.append(metrics)
    metrics["hacking_signs"] = len(hacking.signs(history[0], metrics))
    warn_of_sampler_gap(history)
    if rank() == 0:
        hacking.warn_of_new_signs(history)
        append_bytes(file, (json.dumps(metrics, allow_nan=False) + "\n").encode())

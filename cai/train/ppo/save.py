"""A policy as a plain model, which transformers and `local:` open."""

from __future__ import annotations

from pathlib import Path

from cai.modeling.loading import load_model
from cai.modeling.tokenization import Renderer
from cai.store import atomic_directory
from cai.train.distributed import rank
from cai.train.ppo.actor import Actor


def save_policy(actor: Actor, renderer: Renderer, weights: str, folder: Path) -> None:
    """Write an actor's policy as a plain model with its tokenizer, complete or not at all.

    All processes of a sharded policy call it; the first one writes.

    Args:
        weights: folder or hub id of the model that the policy began as.
    """
    policy = load_model(weights)
    actor.copy_weights_to(policy)
    if rank() == 0:
        with atomic_directory(folder) as partial:
            renderer.save(policy, partial)

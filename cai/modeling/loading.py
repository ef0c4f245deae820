"""Causal models with this package's attention and layers, loaded from a folder or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cai.errors import BackendError, blame
from cai.modeling import attention
from cai.modeling.gated_mlp import recompute_gated_mlps
from cai.modeling.precision import device, matmul_dtype
from cai.modeling.skinny_linear import use_skinny_linears
from cai.store import digest, file_digest

UNBOUNDED = 1 << 30


def load_model(name_or_path: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal model for `generation`: float32 for training, `matmul_dtype()` for sampling.

    Raises:
        BackendError: the model cannot be loaded, or its attention is not supported.
    """
    with blame(BackendError, f"model {name_or_path}"):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            dtype=dtype,
            attn_implementation=attention.ATTN_IMPLEMENTATION,
            use_safetensors=True,
        )
        model.to(device())
    reject_sliding_windows(model.config, name_or_path)
    use_skinny_linears(model)
    recompute_gated_mlps(model)
    return model.eval()


def window_of(config: Any) -> int:
    """Tokens that a model takes, by its configuration; very many where that does not say."""
    return int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)


def window_of_weights(name_or_path: str) -> int:
    """`window_of` a model that is not loaded.

    Raises:
        BackendError: its configuration cannot be read.
    """
    with blame(BackendError, f"model {name_or_path}"):
        return window_of(AutoConfig.from_pretrained(name_or_path))


def reject_sliding_windows(config: Any, name_or_path: str) -> None:
    """Refuse models trained with sliding-window attention.

    `cai.modeling.attention` attends to every earlier token: it would silently change such a model.
    """
    layer_types = getattr(config, "layer_types", None) or ()
    if any("sliding" in layer_type for layer_type in layer_types):
        raise BackendError(
            f"{name_or_path}: sliding-window attention is not supported by the local back end"
        )


def fingerprint(name_or_path: str) -> str:
    """Digest of a folder's weight files, config and tokenizer; of a hub id, its name only."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return digest("hub", name_or_path, str(matmul_dtype()))
    suffixes = (".safetensors", ".json", ".jinja")
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    return digest(*[f"{path.name}:{file_digest(path)}" for path in files], str(matmul_dtype()))

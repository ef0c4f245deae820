"""A causal model from a folder or a hub id, with this package's attention and layers, and the digest that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cai.errors import BackendError, blame
from cai.modeling import attention
from cai.modeling.gated_mlp import recompute_gated_mlps
from cai.modeling.precision import device, matmul_dtype
from cai.modeling.skinny_linear import use_skinny_linears
from cai.store import digest, file_digest


def load_model(where: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal model, ready for `generation`: in float32 to be trained, in `matmul_dtype()` to be sampled from."""
    with blame(BackendError, f"model {where}"):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, attn_implementation=attention.NAME, use_safetensors=True
        )
        model.to(device())
    refuse_windows(model.config, where)
    use_skinny_linears(model)
    recompute_gated_mlps(model)
    return model.eval()


def refuse_windows(config: Any, where: str) -> None:
    """Our attention looks at every earlier token: a model trained with sliding windows would quietly become another one."""
    if any("sliding" in kind for kind in getattr(config, "layer_types", None) or ()):
        raise BackendError(f"{where}: its layers attend in sliding windows, which the local back end does not do yet")


def fingerprint(where: str) -> str:
    """Digest of the weight files, config and tokenizer of a folder; a hub id stands for itself."""
    folder = Path(where)
    if not folder.is_dir():
        return digest("hub", where, str(matmul_dtype()))
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".jinja"))
    return digest(*[f"{p.name}:{file_digest(p)}" for p in files], str(matmul_dtype()))

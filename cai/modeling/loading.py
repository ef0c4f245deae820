"""Causal models with this package's attention and layers, loaded from a folder or a hub id."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from cai.errors import BackendError, StoreError, blame
from cai.modeling import probe
from cai.modeling.fast_paths import FastPaths
from cai.modeling.memory_estimate import free_bytes, model_shape, weight_bytes
from cai.modeling.model_files import cache_dir
from cai.modeling.precision import device, frozen_dtype, matmul_dtype
from cai.store import atomic_write, content_digest, digest

UNBOUNDED = 1 << 30
WEIGHT_SHARE = 0.8
"""Of a GPU's free memory that weights may take: batches need the rest."""


def load_model(
    name_or_path: str, dtype: torch.dtype = torch.float32, *, may_spread: bool = False
) -> PreTrainedModel:
    """A causal model for `generation`: float32 for training, `matmul_dtype()` for sampling.

    It computes with this package's attention and layers as far as they give its own numbers, and
    else as transformers alone does.

    Args:
        may_spread: whether a model that one GPU has no room for is laid over all of them
            (accelerate's `device_map="auto"`). It can only sample and score then, as transformers
            alone does.

    Raises:
        BackendError: the model cannot be loaded, or not be run.
    """
    with blame(BackendError, f"model {name_or_path}"):
        device_map = _device_map(name_or_path, dtype) if may_spread else None
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            device_map=device_map,
        )
        if device_map is None:
            model.to(device())
        model.eval()
        if device_map is None:
            paths = _use_fast_paths(model, name_or_path)
        else:
            paths = probe.measure_plain(model)
    _print_once(name_or_path, paths.note())
    return model


def _device_map(name_or_path: str, dtype: torch.dtype) -> str | None:
    """`auto` for a model that does not fit one GPU, where there are several and one process."""
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if device().type != "cuda" or torch.cuda.device_count() < 2 or not is_alone:
        return None
    free = free_bytes()
    needed = weight_bytes(model_shape(name_or_path), dtype)
    return "auto" if free is not None and needed > WEIGHT_SHARE * free else None


def load_frozen(name_or_path: str) -> PreTrainedModel:
    """`load_model` for a base that stays as it is: its matrices in `frozen_dtype()`, embeddings,
    head and what is small in float32. Inside `autocast` it gives the same numbers.
    """
    model = load_model(name_or_path)
    if frozen_dtype() != torch.float32:
        shorten_matrices(model, frozen_dtype())
    return model


def shorten_matrices(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Convert the weights of linear layers, but not the head's, and none that is shared with it."""
    kept = {id(p) for p in model.get_input_embeddings().parameters()}
    kept |= {id(p) for p in model.get_output_embeddings().parameters()}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in kept:
            module.to(dtype)


def _use_fast_paths(model: PreTrainedModel, name_or_path: str) -> FastPaths:
    """Measure, or read from the cache, what suits the model: the same weights under the same code
    give the same answer.
    """
    versions = (transformers.__version__, torch.__version__, _code_digest())
    commit = str(getattr(model.config, "_commit_hash", None))
    key = digest(fingerprint(name_or_path), commit, *versions, device().type, str(model.dtype))
    file = cache_dir() / f"fast-paths-{key}.json"
    try:
        paths = FastPaths(**json.loads(file.read_text(encoding="utf-8")))
        probe.apply(model, paths)
    except (OSError, ValueError, TypeError):
        paths = probe.measure(model)
        with contextlib.suppress(OSError, StoreError):  # a cache that takes nothing costs time only
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, json.dumps(asdict(paths)) + "\n")
    return paths


@cache
def _code_digest() -> str:
    """Digest of the modules that the measurement is about."""
    return digest(*[path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))])


@cache
def _print_once(name: str, note: str | None) -> None:
    if note:
        print(f"cai: model {name} {note}", file=sys.stderr, flush=True)


def window_of(config: Any) -> int:
    """Tokens that a model takes, by its configuration; very many where that does not say."""
    return int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)


def window_of_weights(name_or_path: str) -> int:
    """`window_of` a model that is not loaded.

    Raises:
        BackendError: its configuration cannot be read.
    """
    with blame(BackendError, f"model {name_or_path}"):
        return window_of(AutoConfig.from_pretrained(name_or_path, trust_remote_code=False))


def fingerprint(name_or_path: str) -> str:
    """Digest of a folder's weight files, config and tokenizer; of a hub id, its name only."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return digest("hub", name_or_path, str(matmul_dtype()))
    suffixes = (".safetensors", ".json", ".jinja")
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes)
    return digest(*[f"{path.name}:{content_digest(path)}" for path in files], str(matmul_dtype()))

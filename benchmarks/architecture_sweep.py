"""Every causal architecture of the installed transformers, tiny and random, against transformers.

    PYTHONPATH=. python benchmarks/architecture_sweep.py [MODEL_TYPE ...]

For each type it prints a line: `equal`, `refused` with the reason that a user reads, `UNEQUAL` or
`CRASH` (defects), or why no tiny model of it was built. Settings are guessed from the names in a
type's config; the suite tests a chosen subset with settings of their own.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from architecture_checks import check_gradients, check_numbers, measured
from architectures import SETTINGS, spread_weights

from cai.errors import CaiError
from cai.modeling.fast_paths import fast_paths

SECONDS = 120
"""Most seconds for a type."""
MAX_PARAMETERS = 4_000_000
HEADS = ("num_attention_heads", "n_head", "n_heads", "attention_heads", "num_heads")
TINY = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 258),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "lru_width"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "block_ff_dim"), 48),
    **dict.fromkeys(
        ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"), 2
    ),
    **dict.fromkeys(HEADS, 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("head_dim", "global_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "expert_ffn_hidden_size", "ffn_hidden_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_num_experts", "num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size"), 24),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "mamba_d_head"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_head_dim", "mamba_headdim"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("hidden_size_per_layer_input", "laurel_rank", "index_head_dim"), 8),
    "word_embed_proj_dim": 32,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
    "is_decoder": True,
}


class Skipped(Exception):
    """No tiny model of this type."""


def tiny_config(model_type: str) -> Any:
    config_class = CONFIG_MAPPING[model_type]
    default = config_class()
    parts = [name for name in vars(default) if name.endswith("_config")]
    if any(
        hasattr(getattr(default, name), "hidden_size") for name in parts if name != "text_config"
    ):
        raise Skipped("it has parts for images or sounds")
    if default.is_encoder_decoder:
        raise Skipped("it has an encoder")
    names = {*vars(default), *getattr(default, "attribute_map", {})}
    settings = {
        name: value
        for name, value in TINY.items()
        if (name in names and getattr(default, name, None) is not None)
        or name.endswith("_token_id")
        or (name == "is_decoder" and name in names)
    }
    aliases = getattr(default, "attribute_map", {})
    settings = {name: value for name, value in settings.items() if name not in aliases}
    config = config_class(**(settings | SETTINGS.get(model_type, {})))
    types = list(getattr(config, "layer_types", None) or [])
    if len(types) == 2 and len(set(types)) == 1 and types[0] in ("conv", "linear_attention"):
        settings["layer_types"] = [types[0], "full_attention"]  # as the type has, at full size
    return config_class(**(settings | SETTINGS.get(model_type, {})))


def build(config: Any) -> Any:
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise Skipped(f"guessed settings give {size:,} parameters")
    torch.manual_seed(0)
    return spread_weights(AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def outcome(model_type: str) -> str:
    try:
        config = tiny_config(model_type)
        build(config)(torch.arange(5, 17)[None], use_cache=False)
    except Skipped as reason:
        return f"not tried: {reason}"
    except Exception as error:
        return f"not tried: transformers alone fails: {_line(error)}"
    try:
        model = measured(build(config))
        check_numbers(build(config), model)
        check_gradients(lambda: build(config))
    except CaiError as error:
        return f"refused: {_line(error)}"
    except AssertionError as error:
        return f"UNEQUAL: {_line(error)}"
    except Exception as error:
        return f"CRASH: {_line(error)}"
    return f"equal: {fast_paths(model).note() or 'fast'}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(check: Callable[[str], str], model_types: list[str]) -> None:
    counts: dict[str, int] = {}
    for model_type in model_types:
        start = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()), time_limit(SECONDS):
            line = check(model_type)
        counts[line.partition(":")[0]] = counts.get(line.partition(":")[0], 0) + 1
        print(f"{model_type:28} {time.perf_counter() - start:5.1f} s  {line}", flush=True)
    print(", ".join(f"{number} {kind}" for kind, number in sorted(counts.items())))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    os.environ["CAI_PRECISION"] = "float32"
    run(outcome, sys.argv[1:] or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

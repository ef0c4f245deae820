"""Tiny random decoders of many architectures of transformers, with the byte tokenizer's ids."""

from __future__ import annotations

from typing import Any

import torch
from toys import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WINDOW = 24
"""Tokens of a sliding window: the tests' rows are longer."""
SHAPE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
GPT2 = {"vocab_size": 258, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
HEAD = {"head_dim": 8}
SLIDING = {"sliding_window": WINDOW}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], **SLIDING}
MAMBA2 = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 16}

SETTINGS: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "mistral": SHAPE | SLIDING,
    "mixtral": SHAPE | EXPERTS | {"sliding_window": None},
    "qwen2": SHAPE,
    "qwen3": SHAPE | HEAD,
    "qwen2_moe": SHAPE | QWEN_EXPERTS,
    "qwen3_moe": SHAPE | QWEN_EXPERTS | HEAD,
    "gemma": SHAPE | HEAD,
    "gemma2": SHAPE | HEAD | MIXED | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": SHAPE | HEAD | MIXED | {"query_pre_attn_scalar": 8},
    "phi": SHAPE,
    "phi3": SHAPE | {"pad_token_id": 257} | SLIDING,
    "gpt2": GPT2,
    "gpt_neox": SHAPE,
    "gpt_neo": {
        "vocab_size": 258,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 512,
        "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
    },
    "gptj": GPT2 | {"rotary_dim": 4},
    "codegen": GPT2 | {"rotary_dim": 4, "n_ctx": 512},
    "gpt_bigcode": GPT2,
    "bloom": {"vocab_size": 258, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": SHAPE,
    "laguna": SHAPE | HEAD | QWEN_EXPERTS,
    "ctrl": GPT2 | {"dff": 48},
    "llama4_text": SHAPE
    | HEAD
    | {"intermediate_size_mlp": 48, "num_local_experts": 4, "attention_chunk_size": WINDOW},
    "mpt": {"vocab_size": 258, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "opt": SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "biogpt": SHAPE,
    "xglm": {
        "vocab_size": 258,
        "d_model": 32,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 512,
    },
    "stablelm": SHAPE,
    "persimmon": SHAPE,
    "nemotron": SHAPE,
    "starcoder2": SHAPE | SLIDING,
    "cohere": SHAPE,
    "cohere2": SHAPE | MIXED,
    "olmo": SHAPE,
    "olmo2": SHAPE,
    "olmo3": SHAPE | MIXED,
    "olmoe": SHAPE | {"num_experts": 4, "num_experts_per_tok": 2},
    "exaone4": SHAPE | MIXED,
    "ministral": SHAPE | HEAD | MIXED,
    "granite": SHAPE | {"logits_scaling": 2.0, "attention_multiplier": 0.3},
    "granitemoe": SHAPE | EXPERTS | {"logits_scaling": 2.0},
    "glm": SHAPE | HEAD | {"pad_token_id": 257},
    "glm4": SHAPE | HEAD | {"pad_token_id": 257},
    "smollm3": SHAPE | {"pad_token_id": 257},
    "seed_oss": SHAPE | HEAD,
    "arcee": SHAPE,
    "helium": SHAPE | HEAD,
    "ernie4_5": SHAPE | HEAD,
    "hunyuan_v1_dense": SHAPE | HEAD,
    "deepseek_v3": SHAPE
    | {
        "num_key_value_heads": 4,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
    "gpt_oss": SHAPE | HEAD | EXPERTS | MIXED,
    "mamba": {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mamba2": {"vocab_size": 258, "hidden_size": 32, "num_hidden_layers": 2} | MAMBA2,
    "jamba": SHAPE
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 4,
        "use_mamba_kernels": False,
        "mamba_d_state": 8,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "falcon_h1": SHAPE
    | {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "bamba": SHAPE
    | {
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "qwen3_next": SHAPE
    | QWEN_EXPERTS
    | HEAD
    | {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
    "lfm2": SHAPE | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    "recurrent_gemma": SHAPE
    | {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": WINDOW},
    "xlstm": {  # it rounds widths up to multiples of 64
        "vocab_size": 258,
        "hidden_size": 64,
        "num_heads": 4,
        "num_hidden_layers": 2,
        "qk_dim_factor": 1.0,
        "v_dim_factor": 1.0,
        "chunk_size": 16,
    },
    "rwkv": {
        "vocab_size": 258,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "attention_hidden_size": 32,
        "context_length": 512,
    },
}
"""Model type -> settings of a tiny config. Some types are not in every version of transformers."""
KNOWN = [name for name in SETTINGS if name in CONFIG_MAPPING]


def random_decoder(model_type: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model whose logits differ by nats, so that greedy choices are not near ties."""
    torch.manual_seed(seed)
    settings = SETTINGS[model_type] | {"bos_token_id": 256, "eos_token_id": 257} | changes
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **settings), dtype=torch.float32
    )
    return spread_weights(model)


def spread_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Weights so wide that no greedy choice is a near tie."""
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in matrices or parameter.dim() == 3:
                parameter.normal_(0, 0.25)
        embeddings = model.get_input_embeddings().weight
        embeddings.normal_(0, 0.5)
    return model.eval()


def save_decoder(model_type: str, folder: Any, **changes: Any) -> PreTrainedModel:
    """The model, written to `folder` with the byte tokenizer."""
    model = random_decoder(model_type, **changes)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model

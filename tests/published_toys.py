"""Tiny random models of the classes that others publish: reward models and guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from toys import tiny_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification


def tiny_classifier(labels: int = 1, seed: int = 0, **settings: Any) -> Any:
    """A random Llama with a classification head, for `tiny_tokenizer`."""
    torch.manual_seed(seed)
    small = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "num_labels": labels,
        "pad_token_id": 257,
    }
    config = LlamaConfig(**(small | settings))
    return LlamaForSequenceClassification(config).eval()


def save_reward_model(folder: Path, **settings: Any) -> Path:
    """Model and tokenizer, as a folder that `reward:FOLDER` names."""
    tiny_tokenizer().save_pretrained(folder)
    tiny_classifier(**settings).save_pretrained(folder)
    return folder

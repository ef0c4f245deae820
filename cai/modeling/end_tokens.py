"""The end tokens that a model's settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PretrainedConfig


def config_eos(folder: Path | str) -> tuple[int, ...]:
    """The end tokens that the model's generation config names, or else its config."""
    try:
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
    except (OSError, ValueError, TypeError):
        ends = _eos_of_config(folder)
    listed = ends if isinstance(ends, list) else [ends]
    return tuple(token for token in listed if isinstance(token, int))


def _eos_of_config(folder: Path | str) -> Any:
    try:
        config, _ = PretrainedConfig.get_config_dict(folder)
    except (OSError, ValueError, TypeError):
        return None
    text_config = config.get("text_config")
    nested = text_config.get("eos_token_id") if isinstance(text_config, dict) else None
    return config.get("eos_token_id", nested)

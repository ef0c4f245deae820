"""Byte tokenizers with the control tokens of real chat models, and their templates, if at hand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from toys import random_llama
from transformers import GenerationConfig, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Family:
    """The control tokens of a model, as its tokenizer lists them."""

    file: str
    """Its template, in the folder `chat_templates` of the evaluation data."""
    special: tuple[str, ...]
    eos: str | None
    added: tuple[str, ...] = ()
    """Control tokens that are not special."""
    bos: str | None = None
    """Written by the tokenizer, too, before a text that is encoded on its own."""
    config_eos: tuple[str, ...] = ()
    """Of the generation config."""


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES = {
    "gemma": Family(
        "google-gemma-2-2b-it",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        eos="<eos>",
        bos="<bos>",
        config_eos=("<eos>", "<end_of_turn>"),
    ),
    "phi": Family(
        "microsoft-Phi-3.5-mini-instruct",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        eos="<|endoftext|>",
        config_eos=("<|end|>", "<|assistant|>", "<|endoftext|>"),
    ),
    "mistral": Family(
        "mistralai-Mistral-Nemo-Instruct-2407",
        ("<s>", "</s>", "[INST]", "[/INST]"),
        eos="</s>",
        bos="<s>",
        config_eos=("</s>",),
    ),
    "llama": Family(
        "meta-llama-Llama-3.1-8B-Instruct",
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ),
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        config_eos=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "qwen2": Family(
        "Qwen-Qwen2.5-7B-Instruct",
        CHATML,
        eos="<|im_end|>",
        added=("<tool_call>", "</tool_call>"),
        config_eos=("<|im_end|>", "<|endoftext|>"),
    ),
    "qwen3": Family(
        "Qwen-Qwen3-0.6B",
        CHATML,
        eos="<|im_end|>",
        added=("<tool_call>", "</tool_call>", "<think>", "</think>"),
        config_eos=("<|im_end|>", "<|endoftext|>"),
    ),
    "r1": Family(
        "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        eos="<｜end▁of▁sentence｜>",
        added=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        bos="<｜begin▁of▁sentence｜>",
        config_eos=("<｜end▁of▁sentence｜>",),
    ),
    "gpt_oss": Family(
        "openai-gpt-oss-120b",
        (
            "<|startoftext|>",
            "<|endoftext|>",
            "<|return|>",
            "<|channel|>",
            "<|start|>",
            "<|end|>",
            "<|message|>",
            "<|call|>",
        ),
        eos="<|return|>",
        bos="<|startoftext|>",
        config_eos=("<|return|>", "<|endoftext|>", "<|call|>"),
    ),
}


def family_tokenizer(family: Family, template: str) -> PreTrainedTokenizerFast:
    """One token per byte, then the family's control tokens."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in family.special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in family.added])
    if family.bos is not None:
        pair = (family.bos, backend.token_to_id(family.bos))
        backend.post_processor = TemplateProcessing(
            single=[family.bos, "$A"], special_tokens=[pair]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.special[0],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = template
    return tokenizer


def save_family(family: Family, template: str, folder: Path, *, model: bool = False) -> Path:
    """A folder with the tokenizer and its generation config, and a tiny model of its vocabulary."""
    tokenizer = family_tokenizer(family, template)
    ends: list[Any] = [tokenizer.convert_tokens_to_ids(token) for token in family.config_eos]
    if model:
        settings = {"num_hidden_layers": 2, "initializer_range": 0.3, "tie_word_embeddings": True}
        random_llama(len(tokenizer), max_position_embeddings=4096, **settings).save_pretrained(
            folder
        )
    tokenizer.save_pretrained(folder)
    if ends:
        GenerationConfig(eos_token_id=ends).save_pretrained(folder)
    return folder


def real_template(name: str) -> str:
    """A family's template from the evaluation data; the test is skipped without it."""
    data = os.environ.get("CAI_EVAL_DATA")
    if not data:
        pytest.skip("needs the folder chat_templates of CAI_EVAL_DATA")
    file = Path(data) / "chat_templates" / f"{FAMILIES[name].file}.jinja"
    return file.read_text(encoding="utf-8")

"""Random models of three sizes for `gpu.py`, made on the device, and its memory and clock."""

from __future__ import annotations

import gc
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "0.1B": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
DRY_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VOCABULARY = 32_000
DRY_VOCABULARY = 300
NO_FULL = ("7B",)
"""Sizes whose weights, gradients and moments in float32 no single card holds."""
START, END = "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}" + START + "{{ m.role }}\n{{ m.content }}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
)


class Bench:
    """One size on one device."""

    def __init__(self, size: str, *, dry: bool) -> None:
        import torch

        from cai.modeling.precision import device

        self.size, self.dry = size, dry
        self.device = torch.device("cpu") if dry else device()
        self.rows, self.tokens, self.updates = (4, 4, 2) if dry else (64, 128, 4)
        self.renderer = _renderer()

    def make(self, dtype: Any, device: Any = None, *, is_plain: bool = False) -> Any:
        """The model: the same weights each time, made on the device. `is_plain`: as transformers
        alone runs it.
        """
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from cai.modeling import probe

        shape = DRY_SHAPE if self.dry else SHAPES[self.size]
        config = LlamaConfig(
            **shape,
            vocab_size=DRY_VOCABULARY if self.dry else VOCABULARY,
            max_position_embeddings=4096,
            tie_word_embeddings=self.size == "0.1B",
            bos_token_id=256,
            eos_token_id=257,
            pad_token_id=257,
        )
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device or self.device:
                model = LlamaForCausalLM(config).eval()
        finally:
            torch.set_default_dtype(before)
        if not is_plain:
            probe.measure(model)
        return model

    def peak(self) -> dict[str, float]:
        """Highest memory since `reset`, in GiB."""
        import torch

        if self.device.type == "cuda":
            return {"peak_gib": round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)}
        return {"peak_rss_gib": round(peak_rss() / 2**30, 2)}

    def reset(self) -> None:
        import torch

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def wait(self) -> None:
        """For all work that the device still has."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one run, after another that warms up."""
        work()
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started


def peak_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes with two control tokens; ids beyond it are no text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=START, eos_token=END, pad_token=END
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def _renderer() -> Any:
    from cai.modeling.tokenization import load_renderer

    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        return load_renderer(folder)


def prompts(count: int) -> list[list[int]]:
    """Prompts of 40 to 71 tokens with a beginning that they share."""
    return [[*range(40), *((7 * i + k) % 250 for k in range(i % 32))] for i in range(count)]

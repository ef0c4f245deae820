"""The memory estimate of fine-tuning against what the process took at its peak.

    python benchmarks/memory_estimate.py [--gradient-checkpointing]

All weights of a random Llama of 7M parameters learn sixteen replies of 256 tokens in one step, on
the CPU. Prints the estimate of the stage and the growth of the peak resident memory in it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

os.environ["CAI_DEVICE"] = "cpu"
ROWS, TOKENS, VOCABULARY = 16, 256, 4096


def random_model(folder: Path) -> None:
    from gpu_models import save_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=257,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(folder: Path, *, gradient_checkpointing: bool) -> dict[str, Any]:
    from cai.modeling.memory_estimate import model_shape
    from cai.pipeline.config import Run
    from cai.pipeline.memory_plan import stage_memories
    from cai.records import chat_of
    from cai.train.sft import Example, SFTConfig, sft

    random_model(folder)
    small = SFTConfig(
        mode="full",
        batch_size=1,
        epochs=1,
        max_length=TOKENS,
        gradient_checkpointing=gradient_checkpointing,
    )
    config = small.model_copy(update={"batch_size": ROWS})
    short = [Example(chat_of(("user", "hello")), "well")]
    # what the libraries take is there before
    sft(str(folder), short, small, folder / "warm", seed=0, progress=lambda done, total: None)
    before = peak_rss()
    replies = [Example(chat_of(("user", "hello")), f"{i:02d}" + "x" * 205) for i in range(ROWS)]
    sft(str(folder), replies, config, folder / "out", seed=0, progress=lambda done, total: None)
    run = Run(name="x", constitution="x", prompts=("x",), sft=config)
    stages = {stage.stage: stage for stage in stage_memories(run, model_shape(str(folder)))}
    estimate, grown = stages["sft"].total, peak_rss() - before
    return {
        "estimate_mib": estimate >> 20,
        "parts_mib": {name: size >> 20 for name, size in stages["sft"].parts.items()},
        "grown_mib": grown >> 20,
        "estimate_over_grown": round(estimate / grown, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gradient-checkpointing", action="store_true")
    again = parser.parse_args().gradient_checkpointing
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), gradient_checkpointing=again)))

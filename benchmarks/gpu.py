"""Correctness and speed on a graphics card, on random weights of three sizes: no download.

    python benchmarks/gpu.py [--sizes 0.1B 1B 7B] [--dry]

Prints a JSON line for each row, with the card's name. The weights are made on the card from a
configuration, and the tokenizer here. Rows of a size:

- `correct` (0.1B only): greedy tokens and log-probabilities of options, on the card in the format
  that it samples in, against float32 on the CPU.
- `sample`: tokens a second of 64 and 1,024 rows; `generate`: the same by transformers' `generate`.
- `label`: pairs a second, in both orders.
- `sft lora`, `sft full`, `preference`: tokens a second of steps after the first, with the
  estimate of memory that `cai check` prints; of fine-tuning all weights only 0.1B,
  whose checkpoint is soon written.
- `ppo lora`, `ppo full`: replies a second of updates after the first; full only up to 1B.
- each with its peak memory on the card.

`--dry` runs all rows in tiny shapes on the CPU, whose numbers mean nothing. A row that fails is
printed with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
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
        return {"peak_rss_gib": round(_peak_rss() / 2**30, 2)}

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


def _peak_rss() -> int:
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


def correct(bench: Bench) -> dict[str, Any]:
    """Against float32 on the CPU: rows whose greedy tokens agree, how many tokens agree before the
    first difference, and the largest difference of an option's log-probability in nats.
    """
    import torch

    from cai.modeling.precision import PRECISION_VARIABLE, matmul_dtype

    rows, options = prompts(min(8, bench.rows)), [[[65], [66]]] * min(8, bench.rows)
    results = []
    for dtype, device in (
        (torch.float32, torch.device("cpu")),
        (torch.float32, bench.device),
        (matmul_dtype(), bench.device),
    ):
        torch.manual_seed(0)
        # or products of a float32 model would be in bfloat16 all the same
        os.environ[PRECISION_VARIABLE] = str(dtype).removeprefix("torch.")
        matmul_dtype.cache_clear()
        model = bench.make(torch.float32, torch.device("cpu")).to(device=device, dtype=dtype)
        results.append((_greedy(model, rows, 16), _options(model, rows, options)))
        del model
        bench.reset()
    os.environ.pop(PRECISION_VARIABLE)
    matmul_dtype.cache_clear()
    (tokens, scores), *others = results
    line: dict[str, Any] = {"rows": len(rows)}
    for name, (got_tokens, got_scores) in zip(("float32", "sampling"), others, strict=True):
        agreeing = [_agreeing(a, b) for a, b in zip(tokens, got_tokens, strict=True)]
        line[f"{name}_equal_rows"] = sum(a == b for a, b in zip(tokens, got_tokens, strict=True))
        line[f"{name}_equal_tokens"] = sum(agreeing) / len(agreeing)
        line[f"{name}_largest_nats"] = max(
            abs(a - b)
            for row, got in zip(scores, got_scores, strict=True)
            for a, b in zip(row, got, strict=True)
        )
    return line


def _agreeing(first: list[int], second: list[int]) -> int:
    """Number of tokens before the first difference."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _greedy(model: Any, rows: list[list[int]], tokens: int) -> list[list[int]]:
    return [g.ids for g in _generate(model, rows, tokens, 0.0)]


def _generate(model: Any, rows: list[list[int]], tokens: int, temperature: float) -> Any:
    from cai.modeling.decoding import shared_prefix
    from cai.modeling.generation import generate

    return generate(
        model,
        rows,
        max_tokens=[tokens] * len(rows),
        temperatures=[temperature] * len(rows),
        seeds=list(range(len(rows))),
        stop_ids=frozenset(),  # random weights: the number of tokens is to be known
        pad=257,
        prefix=shared_prefix(model, rows),
    )


def _options(model: Any, rows: list[list[int]], options: Any) -> list[list[float]]:
    from cai.modeling.decoding import shared_prefix
    from cai.modeling.generation import option_logprobs

    return option_logprobs(model, rows, options, pad=257, prefix=shared_prefix(model, rows))


def sample(bench: Bench, count: int) -> dict[str, Any]:
    from cai.modeling.precision import matmul_dtype

    model, rows = bench.make(matmul_dtype()), prompts(count)
    seconds = bench.seconds(lambda: _generate(model, rows, bench.tokens, 0.7))
    return {
        "rows": len(rows),
        "tokens_per_s": round(len(rows) * bench.tokens / seconds, 1),
        "format": str(model.dtype),
    }


def transformers_generate(bench: Bench, count: int) -> dict[str, Any]:
    """The rows of `sample`, padded on the left, with a cache that grows."""
    import torch

    from cai.modeling.batching import left_pad
    from cai.modeling.precision import matmul_dtype

    model, rows = bench.make(matmul_dtype(), is_plain=True), prompts(count)
    ids_BT, mask_BT = left_pad(rows, 257, bench.device)
    limits = {"min_new_tokens": bench.tokens, "max_new_tokens": bench.tokens, "pad_token_id": 257}
    settings = {"attention_mask": mask_BT, "do_sample": True, "temperature": 0.7, "top_k": 0}
    with torch.no_grad():
        seconds = bench.seconds(lambda: model.generate(ids_BT, **limits, **settings))
    return {"rows": len(rows), "tokens_per_s": round(len(rows) * bench.tokens / seconds, 1)}


def label(bench: Bench) -> dict[str, Any]:
    """The judge's work for a pair: a prompt of the pair in both orders, with two options."""
    from cai.lm.local import LocalLM
    from cai.modeling.precision import matmul_dtype
    from cai.records import chat_of

    lm = LocalLM(bench.make(matmul_dtype()), bench.renderer, "random")
    texts = [f"Which of the two is better? {'A ' * 60}{i}" for i in range(bench.rows)]
    chats = [chat_of(("user", text + order)) for text in texts for order in (" (A)(B)", " (B)(A)")]

    async def judge() -> None:
        await asyncio.gather(*(lm.choice_logprobs(chat, ("A", "B")) for chat in chats))

    seconds = bench.seconds(lambda: asyncio.run(judge()))
    return {"pairs": len(texts), "pairs_per_s": round(len(texts) / seconds, 2)}


class StepTimer:
    """Seconds of a training's steps after the first, as its `progress`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.ends: list[float] = []

    def progress(self, done: int, total: int) -> None:
        self.bench.wait()
        self.ends.append(time.perf_counter())

    def tokens_per_s(self, tokens_per_step: int) -> float:
        seconds = self.ends[-1] - self.ends[0]
        return round(tokens_per_step * (len(self.ends) - 1) / seconds, 1)


def _estimated_gib(folder: Path, stage: str, **settings: Any) -> float:
    from cai.modeling.memory_estimate import model_shape
    from cai.pipeline.config import Run
    from cai.pipeline.memory_plan import stage_memories

    run = Run(name="x", constitution="x", prompts=("x",), **settings)
    stages = {memory.stage: memory for memory in stage_memories(run, model_shape(str(folder)))}
    return round(stages[stage].total / 2**30, 2)


def sft(bench: Bench, mode: str) -> dict[str, Any]:
    """Steps of 8 rows of about 512 tokens."""
    import torch

    from cai.records import chat_of
    from cai.train.sft import Example, SFTConfig, tokenize
    from cai.train.sft import sft as train

    batch, length, steps = (2, 64, 3) if bench.dry else (8, 512, 6)
    config = SFTConfig.model_validate(
        {"mode": mode, "batch_size": batch, "max_length": length, "epochs": 1}
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench.make(torch.bfloat16, is_plain=True).save_pretrained(folder / "base")
        save_tokenizer(folder / "base")
        bench.reset()
        examples = [
            Example(chat_of(("user", "a")), f"{i:02d}" + "x" * (length - 24))
            for i in range(batch * steps)
        ]
        rows, _ = tokenize(bench.renderer, examples[:1], length)
        timer = StepTimer(bench)
        train(
            str(folder / "base"),
            examples,
            config,
            folder / "out",
            seed=0,
            progress=timer.progress,
        )
        estimate = _estimated_gib(folder / "base", "sft", sft=config)
    tokens = batch * len(rows[0]["input_ids"])
    return {"tokens_per_s": timer.tokens_per_s(tokens), "estimate_gib": estimate}


def preference(bench: Bench) -> dict[str, Any]:
    """Steps of 8 pairs of rows of 384 tokens; LoRA."""
    import torch

    from cai.modeling.lora import with_adapter
    from cai.reward.preference_model import ADAPTER, PreferenceModel
    from cai.train.comparison import Comparison
    from cai.train.preference import RewardConfig, train

    batch, length, steps = (2, 32, 3) if bench.dry else (8, 384, 6)
    config = RewardConfig(batch_size=batch)
    base = _frozen_base(bench)
    model = PreferenceModel(with_adapter(base, ADAPTER, config.lora_rank), bench.renderer)
    rows = [[(i + k) % 250 for k in range(length)] for i in range(2 * batch * steps)]
    pairs = [Comparison(str(i), rows[2 * i], rows[2 * i + 1], 0.9) for i in range(batch * steps)]
    timer = StepTimer(bench)
    torch.manual_seed(0)
    train(model, pairs, config, seed=0, progress=timer.progress)
    with tempfile.TemporaryDirectory() as folder:
        base.config.save_pretrained(folder)
        pair = {"max_tokens": length - 256} if not bench.dry else {}
        estimate = _estimated_gib(Path(folder), "reward", reward=config, pair=pair)
    return {"tokens_per_s": timer.tokens_per_s(2 * batch * length), "estimate_gib": estimate}


def ppo(bench: Bench, mode: str) -> dict[str, Any]:
    """Updates of 16 prompts with 4 replies each of 48 tokens, and a reward that costs nothing."""
    import torch

    from cai.records import Prompt, chat_of
    from cai.train.ppo.config import PPOConfig
    from cai.train.ppo.trainer import PPOTrainer

    prompts_per_update, responses, length = (2, 2, 4) if bench.dry else (16, 4, 48)
    config = PPOConfig.model_validate(
        {
            "num_updates": bench.updates,
            "mode": mode,
            "save_every": bench.updates,
            "rollout": {
                "prompts_per_update": prompts_per_update,
                "responses_per_prompt": responses,
                "max_new_tokens": length,
            },
            "optimization": {
                "num_minibatches": 1,
                "micro_batch_size": prompts_per_update * responses,
            },
        }
    )
    torch.manual_seed(0)
    trainer = PPOTrainer(_actor(bench, config), bench.renderer, _reward, config)
    batch = [
        Prompt(chat=chat_of(("user", f"Explain how to do task number {i} at home.")))
        for i in range(prompts_per_update)
    ]
    ends: list[float] = []

    def end_update(update: int, metrics: Any) -> None:
        bench.wait()
        ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer.train(batch, Path(folder), on_update=end_update)
    replies = prompts_per_update * responses * (len(ends) - 1)
    return {
        "replies_per_s": round(replies / (ends[-1] - ends[0]), 2),
        "micro_batch": trainer.learner.micro_batch_size,
    }


def _reward(rollouts: Any) -> Any:
    return {"low": [sum(t < 128 for t in r.response_ids) / len(r.response_ids) for r in rollouts]}


def _actor(bench: Bench, config: Any) -> Any:
    import torch

    from cai.modeling.lora import with_adapter
    from cai.modeling.precision import matmul_dtype
    from cai.train.ppo.actor import POLICY, FullActor, LoraActor

    copy = bench.make(matmul_dtype()) if matmul_dtype() != torch.float32 else None
    base = _frozen_base(bench)
    if config.mode == "lora":
        return LoraActor(with_adapter(base, POLICY, config.lora_rank), copy)
    return FullActor(bench.make(torch.float32), base, copy)


def _frozen_base(bench: Bench) -> Any:
    """As `loading.load_frozen` has it."""
    import torch

    from cai.modeling.loading import shorten_matrices
    from cai.modeling.precision import frozen_dtype

    base = bench.make(torch.float32)
    if frozen_dtype() != torch.float32:
        shorten_matrices(base, frozen_dtype())
    return base


def rows_of(bench: Bench) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name of a row -> what makes it."""
    if bench.size == "0.1B":
        yield "sft full", lambda: sft(bench, "full")
        yield "correct", lambda: correct(bench)
    for count in (bench.rows, 16 * bench.rows):
        yield "sample", partial(sample, bench, count)
        if bench.size not in NO_FULL or count == bench.rows:
            yield "generate", partial(transformers_generate, bench, count)
    yield "label", lambda: label(bench)
    if bench.size not in NO_FULL:
        yield "sft lora", lambda: sft(bench, "lora")
    yield "preference", lambda: preference(bench)
    yield "ppo lora", lambda: ppo(bench, "lora")
    if bench.size not in NO_FULL:
        yield "ppo full", lambda: ppo(bench, "full")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    import torch

    is_gpu = torch.cuda.is_available() and not options.dry
    if not is_gpu and not options.dry:
        parser.error("torch sees no graphics card (--dry runs tiny shapes on the CPU)")
    card = torch.cuda.get_device_name() if is_gpu else "cpu, dry run"
    for size in options.sizes:
        bench = Bench(size, dry=options.dry)
        for name, work in rows_of(bench):
            bench.reset()
            line: dict[str, Any] = {"card": card, "torch": torch.__version__, "size": size}
            try:
                line |= {"row": name, **work(), **bench.peak()}
            except Exception as error:  # the other rows are worth having
                line |= {"row": name, "error": f"{type(error).__name__}: {error}"[:300]}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

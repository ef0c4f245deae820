"""Correctness and speed on a graphics card, on random weights of three sizes: no download.

    python benchmarks/gpu.py [--sizes 0.1B 1B 7B] [--dry]

Prints a JSON line for each row, with the card's name. The weights are made on the card from a
configuration, and the tokenizer here. Rows of a size:

- `correct` (0.1B only): greedy tokens and log-probabilities of options, on the card in the format
  that it samples in, against float32 on the CPU.
- `sample`: tokens a second of 64 rows, and of as many as `cai` takes at once; `generate`: the same
  by transformers' `generate`.
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
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu_models import NO_FULL, SHAPES, Bench, prompts
from gpu_training import ppo, preference, sft


def correct(bench: Bench) -> dict[str, Any]:
    """Against float32 on the CPU: rows whose greedy tokens agree, how many tokens agree before the
    first difference, and the largest difference of an option's log-probability in nats.
    """
    import torch

    from cai.modeling.precision import matmul_dtype

    rows, options = prompts(min(8, bench.rows)), [[[65], [66]]] * min(8, bench.rows)
    results = []
    for dtype, device in (
        (torch.float32, torch.device("cpu")),
        (torch.float32, bench.device),
        (matmul_dtype(), bench.device),
    ):
        torch.manual_seed(0)
        with _products_in(dtype):
            model = bench.make(torch.float32, torch.device("cpu")).to(device=device, dtype=dtype)
            results.append((_greedy(model, rows, 16), _options(model, rows, options)))
        del model
        bench.reset()
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


@contextlib.contextmanager
def _products_in(dtype: Any) -> Iterator[None]:
    """Inside, large products have this format: those of a float32 model may be in bfloat16."""
    from cai.modeling.precision import PRECISION_VARIABLE, matmul_dtype

    before = os.environ.get(PRECISION_VARIABLE)
    os.environ[PRECISION_VARIABLE] = str(dtype).removeprefix("torch.")
    matmul_dtype.cache_clear()
    try:
        yield
    finally:
        os.environ.pop(PRECISION_VARIABLE)
        if before is not None:
            os.environ[PRECISION_VARIABLE] = before
        matmul_dtype.cache_clear()


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


def sample(bench: Bench, is_large: bool) -> dict[str, Any]:
    from cai.modeling.precision import matmul_dtype

    model = bench.make(matmul_dtype())
    rows = prompts(_count(bench, model, is_large))
    seconds = bench.seconds(lambda: _generate(model, rows, bench.tokens, 0.7))
    return {
        "rows": len(rows),
        "tokens_per_s": round(len(rows) * bench.tokens / seconds, 1),
        "format": str(model.dtype),
    }


def _count(bench: Bench, model: Any, is_large: bool) -> int:
    from cai.modeling.batch_limits import batch_limits

    return batch_limits(model).rows if is_large else bench.rows


def transformers_generate(bench: Bench, is_large: bool) -> dict[str, Any]:
    """The rows of `sample`, padded on the left, with a cache that grows."""
    import torch

    from cai.modeling.batching import left_pad
    from cai.modeling.precision import matmul_dtype

    model = bench.make(matmul_dtype(), is_plain=True)
    rows = prompts(_count(bench, model, is_large))
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


def rows_of(bench: Bench) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name of a row -> what makes it."""
    if bench.size == "0.1B":
        yield "correct", lambda: correct(bench)
    for is_large in (False, True):
        yield "sample", partial(sample, bench, is_large)
        yield "generate", partial(transformers_generate, bench, is_large)
    yield "label", lambda: label(bench)
    if bench.size not in NO_FULL:
        yield "sft lora", lambda: sft(bench, "lora")
    if bench.size == "0.1B":
        yield "sft full", lambda: sft(bench, "full")
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

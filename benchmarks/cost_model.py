"""The cost model against measured revise runs of the embedded model, and against published runs.

    python benchmarks/cost_model.py [--rows N] [--sizes N ...] [--seed N]
        [--write FILE.yaml [--clock cpu]]

Calibration: the speed of reading prompts and of generating at 1, 8, 32 and 128 rows, on texts of no
meaning, and the calls of a run of a few rows. From these alone the cost model says how long runs of
16, 48 and 128 other rows take. Then they are made. Each row is a reply, a critique and a revision.

All of it twice: in seconds of the clock, and in seconds of processor time of this process, which
other work on the machine disturbs less. --write puts the calibrated machine into a file for
`cai plan --machine`, in seconds of the clock, or with `--clock cpu` in those of the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from cai.async_map import gather, map_in_memory
from cai.constitution import load_constitution
from cai.data.readers import prompt_rows
from cai.generate.revise import ReviseConfig, revise_items, reviser
from cai.lm.local import LocalLM, load_local
from cai.modeling import decoding
from cai.modeling.batch_limits import CPU_LIMITS
from cai.modeling.model_files import resolve_model_path
from cai.modeling.sampling import Responses, draw
from cai.pipeline.probe import ROW, Probe, Used
from cai.records import PromptDraw
from cai.seeds import rng
from cai.simulation.engine import device_time
from cai.simulation.forecast import forecast_stage
from cai.simulation.machines import Machine, load_machine
from cai.simulation.workload import Call, Workload, workload

ROOT = Path(__file__).parents[1]
CONFIG = ReviseConfig(
    temperature=0.7, revise_temperature=0.5, max_tokens=40, critique_tokens=32, helpful_samples=1
)
POINTS = (1, 8, 32, 128)
"""Rows at once at which generation is timed."""
PREFIX, SUFFIX = 384, 96
"""Tokens of the timed prompts: shared, and of their own."""
STEPS = 12
"""That are timed at each of these; their median counts."""


@dataclass(frozen=True)
class Seconds:
    """Of the clock, and of this process's threads together."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


# ---- calibration ----


def calibrate(lm: LocalLM) -> tuple[dict[int, Seconds], Seconds]:
    """(rows -> seconds of a step, seconds of reading a prompt token)."""
    model, pad = lm.model, lm.renderer.pad_token_id
    draws = torch.Generator().manual_seed(0)

    def ids(rows: int, length: int) -> list[list[int]]:
        vocabulary = model.config.vocab_size
        return torch.randint(100, vocabulary, (rows, length), generator=draws).tolist()

    [shared] = ids(1, PREFIX)
    steps: dict[int, Seconds] = {}
    readings: list[Seconds] = []
    with torch.no_grad():
        prefix = decoding.prefill_prefix(model, shared)
        decoding.DecodingBatch(model, [[*shared, 100]], prefix, pad)  # what the first alone does
        for rows in POINTS:
            batches: list[decoding.DecodingBatch] = []
            prompts = [[*shared, *own] for own in ids(rows, SUFFIX)]
            read = partial(decoding.DecodingBatch, model, prompts, prefix, pad)
            reading = timed(lambda read=read, batches=batches: batches.append(read()))
            readings.append(per(reading, rows * SUFFIX))
            step = partial(sampled_step, batches[0])
            times = [timed(step) for _ in range(STEPS)]
            steps[rows] = Seconds(
                statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times)
            )
    large = readings[-2:]  # few rows do not fill a pass
    return steps, Seconds(min(t.wall for t in large), min(t.cpu for t in large))


def sampled_step(batch: decoding.DecodingBatch) -> None:
    rows = range(len(batch.hidden_BE))
    ends: frozenset[int] = frozenset()
    responses = Responses(
        [STEPS] * len(rows), [0.7] * len(rows), rows, ends, lambda row, ids: False
    )
    draws = responses.draws(rows, 1, batch.model.device)
    batch.step(draw(batch.logits(), draws, 0)[0])


def per(seconds: Seconds, count: int) -> Seconds:
    return Seconds(seconds.wall / count, seconds.cpu / count)


def described(steps: dict[int, Seconds], reading: Seconds, kind: str) -> dict[str, Any]:
    """The machine as a file describes it, in seconds of the clock or of the processor."""
    clock = {"wall": "seconds of the clock", "cpu": "seconds of processor time"}[kind]
    source = f"benchmarks/cost_model.py, {clock}, threads: {torch.get_num_threads()}"

    def figure(value: float, basis: str = "measured", why: str = source) -> dict[str, Any]:
        return {"value": float(f"{value:.4g}"), "basis": basis, "source": why}

    decode = [
        {
            "rows": rows,
            # fewer rows are not slower than more: that is other work on the machine
            "tokens_per_second": float(
                f"{rows / min(getattr(steps[more], kind) for more in POINTS if more >= rows):.4g}"
            ),
            "basis": "measured",
            "source": source,
        }
        for rows in POINTS
    ]
    threads = torch.get_num_threads()
    return {
        "name": "cpu",
        "title": f"a processor (threads: {threads}), SmolLM2-135M in the process of cai",
        "startup_seconds": figure(10, "assumed", "libraries and a model of 135M parameters"),
        "engine": {
            "batching": "windows",
            "prefill_tokens_per_second": figure(1 / getattr(reading, kind)),
            "decode": decode,
            "max_rows": figure(
                CPU_LIMITS.rows, "published", "cai: rows of a window of a local model"
            ),
            "cache_tokens": figure(4096, "assumed", "four prefixes of some hundred tokens"),
        },
    }


# ---- runs ----


def revise_rows(count: int, seed: int) -> list[PromptDraw]:
    """Prompts whose replies are revised, in an order of their own."""
    folder = ROOT / "examples" / "prompts"
    prompts = [
        prompt
        for name in ("disallowed", "sensitive")
        for prompt in prompt_rows(folder / f"{name}.jsonl")
    ]
    rng(seed, "cost model").shuffle(prompts)
    if count > len(prompts):
        raise SystemExit(f"{count} rows are needed, and there are {len(prompts)} prompts")
    return revise_items(prompts[:count], CONFIG)


def step(lm: Any) -> Callable[[PromptDraw], Awaitable[Any]]:
    return reviser(load_constitution("assistant"), lm, CONFIG, lambda prompt, reply: None, 0)


def probe(lm: LocalLM, rows: list[PromptDraw]) -> Workload:
    """The calls of a few rows."""
    revise = step(Probe(lm))

    async def tracked(row: PromptDraw) -> Used:
        used = Used()
        ROW.set(used)
        await revise(row)
        return used

    async def work() -> list[Used]:
        return await gather([tracked(row) for row in rows])

    result = workload("revise", [used.tried for used in asyncio.run(work())])
    assert result is not None  # noqa: S101
    return result


def measure(lm: LocalLM, rows: list[PromptDraw]) -> Seconds:
    def work() -> None:
        asyncio.run(map_in_memory(rows, step(lm), max_concurrency=lm.max_concurrency))

    return timed(work)


# ---- published ----


def published() -> None:
    """The machine `h100` against what its source measured. The first follows from its numbers."""
    h100 = load_machine("h100")
    assert h100.engine is not None  # noqa: S101
    revise = Workload("revise", (tuple(Call(1024, 128, wave=wave) for wave in range(3)),))
    rate = forecast_stage(h100, revise, 1_000_000, 0).rows_per_hour
    print(f"h100, 3 calls a row of 1,024 + 128 tokens, no prefix: {rate:,.0f} rows/hour")
    print(f"  of 433 to 577 rows a GPU hour in 2024: {rate / 577:.0f} to {rate / 433:.0f} times")
    single = Workload("throughput", ((Call(1034, 128),),))
    seconds = device_time(h100.engine, single, 1000, 0).seconds
    error = seconds / 39.10 - 1
    print(f"h100, 1,000 calls of 1,034 + 128: {seconds:.1f} s; published 39.10 s ({error:+.0%})")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=12, help="rows of the calibrating run")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 48, 128])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    published()
    lm = load_local(resolve_model_path("smollm2"))
    steps, reading = calibrate(lm)
    files = {kind: described(steps, reading, kind) for kind in ("wall", "cpu")}
    print(json.dumps({kind: file["engine"] for kind, file in files.items()}), file=sys.stderr)
    if options.write:
        text = yaml.safe_dump(files[options.clock], sort_keys=False, width=100)
        options.write.write_text(text, encoding="utf-8")
    rows = revise_rows(options.rows + max(options.sizes), options.seed)
    work = probe(lm, rows[: options.rows])
    for size in options.sizes:
        begin = options.rows
        measured = measure(lm, rows[begin : begin + size])
        for kind, file in files.items():
            machine = Machine.model_validate(file)
            predicted = forecast_stage(machine, work, size, options.seed).hours * 3600
            seconds = getattr(measured, kind)
            line = {
                "rows": size,
                "time": kind,
                "predicted_s": round(predicted, 1),
                "measured_s": round(seconds, 1),
                "error": f"{predicted / seconds - 1:+.1%}",
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

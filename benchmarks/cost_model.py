"""The cost model against measured revise runs of the embedded model, and against published runs.

    python benchmarks/cost_model.py [--rows N] [--sizes N ...] [--seed N] [--write FILE.yaml]

Calibration: the speed of reading prompts and of generating at 1, 8, 32 and 128 rows, on texts of no
meaning, and the calls of a run of a few rows. From these alone the cost model says how long runs of
16, 48 and 128 other rows take. Then they are made. Each row is a reply, a critique and a revision.

All of it twice: in seconds of the clock, and in seconds of processor time of this process, which
other work on the machine disturbs less. --write puts the calibrated machine into a file for
`cai plan --machine`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from cai.async_map import gather, map_in_memory
from cai.constitution import load_constitution
from cai.data.readers import prompt_rows
from cai.generate.revise import ReviseConfig, revise_items, reviser
from cai.lm.local import LocalLM, load_local
from cai.lm.local_batches import MAX_BATCH_ROWS
from cai.modeling import generation
from cai.modeling.model_files import resolve_model_path
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
STEPS = {1: 16, 8: 12, 32: 8, 128: 6}
"""Tokens a row that are timed."""


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
    vocabulary = lm.model.config.vocab_size
    ids = torch.randint(100, vocabulary, (PREFIX,), generator=torch.Generator().manual_seed(0))
    prefix = generation.prefill_prefix(lm.model, ids.tolist())

    def generate(rows: int, tokens: int) -> Seconds:
        draws = torch.Generator().manual_seed(rows)
        own = torch.randint(100, vocabulary, (rows, SUFFIX), generator=draws)
        prompts = [[*ids.tolist(), *suffix] for suffix in own.tolist()]

        def work() -> Any:
            return generation.generate(
                lm.model,
                prompts,
                max_tokens=[tokens] * rows,
                temperatures=[0.7] * rows,
                seeds=list(range(rows)),
                stop_ids=frozenset(),
                pad=lm.renderer.pad_token_id,
                prefix=prefix,
            )

        tries = [timed(work) for _ in range(2)]  # the better one: other work only adds to it
        return Seconds(min(t.wall for t in tries), min(t.cpu for t in tries))

    generate(2, 2)  # what the first call alone does
    steps: dict[int, Seconds] = {}
    reading = Seconds(0.0, 0.0)
    for rows in POINTS:
        short, long = generate(rows, 1), generate(rows, 1 + STEPS[rows])
        steps[rows] = Seconds(
            (long.wall - short.wall) / STEPS[rows], (long.cpu - short.cpu) / STEPS[rows]
        )
        if rows == max(POINTS):
            reading = Seconds(short.wall / rows / SUFFIX, short.cpu / rows / SUFFIX)
    return steps, reading


def described(steps: dict[int, Seconds], reading: Seconds, kind: str) -> dict[str, Any]:
    """The machine as a file describes it, in seconds of the clock or of the processor."""
    source = f"benchmarks/cost_model.py, {kind} time, {torch.get_num_threads()} threads"

    def figure(value: float, basis: str = "measured", why: str = source) -> dict[str, Any]:
        return {"value": float(f"{value:.4g}"), "basis": basis, "source": why}

    decode, slowest = [], 0.0
    for rows, seconds in steps.items():
        slowest = max(slowest, getattr(seconds, kind))  # more rows are not faster: that is noise
        decode.append(
            {
                "rows": rows,
                "tokens_per_second": float(f"{rows / slowest:.4g}"),
                "basis": "measured",
                "source": source,
            }
        )
    return {
        "name": "cpu",
        "title": "two processor cores, SmolLM2-135M in the process of cai",
        "startup_seconds": figure(10, "assumed", "libraries and a model of 135M parameters"),
        "engine": {
            "batching": "windows",
            "prefill_tokens_per_second": figure(1 / getattr(reading, kind)),
            "decode": decode,
            "max_rows": figure(MAX_BATCH_ROWS, "published", "MAX_BATCH_ROWS of cai"),
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
    options = parser.parse_args()
    published()
    lm = load_local(resolve_model_path("smollm2"))
    steps, reading = calibrate(lm)
    files = {kind: described(steps, reading, kind) for kind in ("wall", "cpu")}
    print(json.dumps(files["wall"]["engine"], indent=1), file=sys.stderr)
    if options.write:
        options.write.write_text(yaml.safe_dump(files["wall"], sort_keys=False), encoding="utf-8")
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

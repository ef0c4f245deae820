"""Speed and memory of prompt hygiene from file to file, filter by filter and with all of them.

    python benchmarks/hygiene_speed.py [COUNT] [--only NAME ...]

By default at 100,000 rows of `synthetic_rows`, written to a temporary JSONL file first. Each filter
runs in a process of its own, from that file to one with what stays, as in `cai clean`. One line of
JSON a filter. `rows_s` counts rows of the input over the time that passed; `cpu_us_row` is
processor time of all processes together. `growth_MB` is the highest resident memory of the
processes that the measured one starts, with what its own grew by since the libraries and models
were loaded and a thousand rows processed; pages that processes share count for each of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import synthetic_rows

from cai.data.dedupe import clean, kept_lines
from cai.data.filters import HygieneConfig, PromptFilters, needs_token_counts
from cai.data.readers import prompt_rows
from cai.data.writers import write_prompt_lines, write_prompts
from cai.modeling.token_counts import token_counter

FILTERS: dict[str, dict[str, object]] = {
    "exact": {},
    "length": {"max_tokens": 120},
    "prefix": {"prefix": 60},
    "user": {"per_user": 3},
    "language": {"languages": ("en",)},
    "against": {"against": ("evaluation",)},
    "pii": {"pii": "mask"},
    "near": {"near": 0.8},
}
FILTERS["all"] = {key: value for settings in FILTERS.values() for key, value in settings.items()}
EVALUATION_TEXTS = 1000
SAMPLED_EVERY = 0.05
"""Seconds between two looks at the memory."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", nargs="?", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", choices=FILTERS, default=list(FILTERS))
    parser.add_argument("--measured", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        measure(options.measured[0], Path(options.measured[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_prompts(path, synthetic_rows.rows(options.count))
        for name in options.only:
            print(json.dumps(measured(name, path)), flush=True)


def measured(name: str, path: Path) -> dict[str, object]:
    """The line of one filter, from a process of its own."""
    command = [sys.executable, __file__, "--measured", name, str(path)]
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin  # noqa: S101
        assert process.stdout  # noqa: S101
        process.stdout.readline()
        before, _ = resident_bytes(process.pid)
        growth = [0]
        ended = threading.Event()
        sampler = threading.Thread(target=sample, args=(process.pid, before, growth, ended))
        sampler.start()
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
        ended.set()
        sampler.join()
    if process.returncode or not line:
        raise SystemExit(f"{name}: the measured process ended with {process.returncode}")
    return json.loads(line) | {"growth_MB": round(max(growth) / 2**20)}


def sample(pid: int, before: int, growth: list[int], ended: threading.Event) -> None:
    while not ended.wait(SAMPLED_EVERY):
        main, others = resident_bytes(pid)
        growth.append(max(0, main - before) + others)


def resident_bytes(pid: int) -> tuple[int, int]:
    """(of a process, of all those below it together)."""
    try:
        process = psutil.Process(pid)
        main = process.memory_info().rss
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return 0, 0
    others = 0
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            others += child.memory_info().rss
    return main, others


def measure(name: str, path: Path) -> None:
    """Work through the file once the other process says so; print speed and counts."""
    config = HygieneConfig.model_validate(FILTERS[name])
    evaluation = synthetic_rows.evaluation_texts(EVALUATION_TEXTS) if config.against else []
    count_tokens = token_counter("smollm2") if needs_token_counts(config) else len
    rules = PromptFilters(config, count_tokens, evaluation)
    warm = list(synthetic_rows.rows(1000))
    with tempfile.TemporaryFile() as lines:
        cleaned = clean(lambda: iter(warm), config, rules, lines=lines)
    print("ready", flush=True)
    sys.stdin.readline()
    started, cpu = time.perf_counter(), cpu_seconds()
    with tempfile.TemporaryFile() as lines:
        cleaned = clean(lambda: prompt_rows(path), config, rules, lines=lines)
        write_prompt_lines(path.with_name("kept.jsonl"), kept_lines(lines, cleaned))
    seconds = time.perf_counter() - started
    rows = len(cleaned.codes)
    line = {"filter": name, "rows": rows, "rows_s": round(rows / seconds)}
    line |= {"seconds": round(seconds, 1)}
    line |= {"cpu_us_row": round((cpu_seconds() - cpu) / rows * 1e6, 1), "counts": cleaned.counts}
    print(json.dumps(line), flush=True)


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()

"""Every benchmark of this folder in one go, one after another, into RESULTS.md beside it.

    python benchmarks/run_all.py [--only NAME ...] [--output FILE]

Run it on a machine that does nothing else: most figures are times. `CAI_EVAL_DATA` names the folder
of public sets that some need. A script that cannot run here has a line that says why. The file has
the machine, the date, and for each script its command, how long it took, and what it printed. With
--only, the other sections of an existing file stay.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
TIME_LIMIT = 4 * 3600.0
"""Seconds of one script."""
MAX_LINES = 60
"""Of a script's output: its last ones."""
PACKAGES = ("cai", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder with the arguments of its published figures."""

    name: str
    arguments: tuple[str, ...] = ()
    needs: str | None = None
    """What it cannot do without: `data`, or `gpu`."""


BENCHMARKS = (
    Benchmark("ppo_speed", ("--mode", "lora")),
    Benchmark("label_speed"),
    Benchmark("http_throughput"),
    Benchmark("revise_speed"),
    Benchmark("hygiene_speed", ("100000",)),
    Benchmark("near_duplicates"),
    Benchmark("label_memory"),
    Benchmark("memory_estimate"),
    Benchmark("cost_model"),
    Benchmark("ptx", ("3",)),
    Benchmark("refusal_protocol", needs="data"),
    Benchmark("rubric_agreement", needs="data"),
    Benchmark("grade_speed"),
    Benchmark("judge_agreement", needs="data"),
    Benchmark("judge_tries", needs="data"),
    Benchmark("preference_hh", needs="data"),
    Benchmark("architecture_sweep"),
    Benchmark("fault_fuzz"),
    Benchmark("key_fuzz"),
    Benchmark("kill_tools"),
    Benchmark("gpu", needs="gpu"),
)
NOT_RUN = {
    "run_all": "this script",
    "fit_refusals": "writes a constitution's weights",
    "gpu_models": "random models, for gpu",
    "gpu_training": "rows of gpu",
    "judge_features": "computes what judge_tries prints",
    "judge_texts": "pairs of judge_tries",
    "refusal_sets": "labelled replies, for other scripts",
    "synthetic_rows": "rows for other scripts",
    "tfidf_baseline": "a grader to compare with, for another script",
    "gold_propositions": "two models together, for another script",
    "reply_model": "what refusal_style_fitted learns, for other scripts",
    "tagged_replies": "replies to learn from, for other scripts",
    "written_replies": "replies to learn from, for other scripts",
}
"""Scripts of the folder that are no benchmark."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=[b.name for b in BENCHMARKS])
    parser.add_argument("--output", type=Path, default=FOLDER / "RESULTS.md")
    options = parser.parse_args()
    sections = read_sections(options.output) if options.only else {}
    for benchmark in BENCHMARKS:
        if options.only is None or benchmark.name in options.only:
            print(f"{benchmark.name} ...", file=sys.stderr, flush=True)
            sections[benchmark.name] = section(benchmark)
            options.output.write_text(page(sections), encoding="utf-8")


def section(benchmark: Benchmark) -> str:
    """One benchmark's part of the page, run now."""
    command = " ".join(("python", f"benchmarks/{benchmark.name}.py", *benchmark.arguments))
    head = f"## {benchmark.name}\n\nCommand: `{command}`. {machine()}\n\n"
    if reason := missing(benchmark.needs):
        return f"{head}Not run: {reason}.\n"
    started = time.perf_counter()
    text, failure = run(benchmark)
    minutes = (time.perf_counter() - started) / 60
    body = f"{minutes:.1f} minutes{failure}.\n\n```text\n{text}\n```\n"
    return head + body


def missing(need: str | None) -> str | None:
    """Why a benchmark cannot run here; None: it can."""
    if need == "data" and not os.environ.get("CAI_EVAL_DATA"):
        return "`CAI_EVAL_DATA` names no folder of public sets"
    if need == "gpu":
        import torch

        if not torch.cuda.is_available():
            return "this machine has no graphics card"
    return None


def run(benchmark: Benchmark) -> tuple[str, str]:
    """(the last lines that a script printed, what went wrong)."""
    command = [sys.executable, str(FOLDER / f"{benchmark.name}.py"), *benchmark.arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        return "", f"; stopped after {TIME_LIMIT / 3600:g} hours"
    lines = done.stdout.splitlines()
    failure = ""
    if done.returncode:
        failure = f"; exit code {done.returncode}"
        lines += done.stderr.splitlines()[-5:]
    # a fence in the output would end the page's own
    shown = [line.replace("```", "'''") for line in lines[-MAX_LINES:]]
    return "\n".join(shown), failure


def machine() -> str:
    """Processor, cores, memory, system, versions and date, in a sentence."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return (
        f"{processor()}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()}, "
        f"Python {platform.python_version()}, {versions}; {datetime.date.today()}."
    )


def processor() -> str:
    """The processor's name, and those of its instructions that decide most of the speed."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown processor"
    name = re.search(r"model name\s*: (.*)", text)
    flags = set(re.search(r"flags\s*: (.*)", text)[1].split()) if "flags" in text else set()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name[1] if name else 'unknown processor'} ({', '.join(known) or 'no AVX2'})"


def read_sections(path: Path) -> dict[str, str]:
    """Name -> text of each section of an earlier page."""
    if not path.exists():
        return {}
    parts = re.split(r"^(?=## )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.split()[1]: part for part in parts if part.startswith("## ")}


def page(sections: dict[str, str]) -> str:
    """The whole page, in the order of `BENCHMARKS`."""
    known = [sections[b.name] for b in BENCHMARKS if b.name in sections]
    head = (
        "# Results of the benchmarks\n\n"
        "Written by `make bench`; each section is one run. [Figures](../docs/figures.md) says what "
        "they mean.\n\n"
    )
    return head + "\n".join(part.rstrip() + "\n" for part in known)


if __name__ == "__main__":
    main()

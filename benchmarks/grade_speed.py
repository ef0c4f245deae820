"""Replies graded a second, without a model: one at a time, in batches, in processes, from a file.

    CAI_EVAL_DATA=/path/to/data python benchmarks/grade_speed.py [--processes N]

For patterns (`refusal_style`) and with text models (`refusal_style_fitted`), in one run, so that
the ratios hold. On a busy machine the time of the processors says more than the clock.

Replies are those of refusal_sets.py, cut to 200 words, which brings their median near a hundred;
without CAI_EVAL_DATA they are the replies written by rule. The first pass is not counted: it fills
the automaton of the prefilter. `cai grade` is timed as a whole, start included, on a file of the
same replies that is long enough for several processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import refusal_sets

from cai.cli.grades import LONG_INPUT
from cai.constitution.load import load_with_rubric
from cai.constitution.schema import Rubric
from cai.process_map import map_in_processes, usable_cores
from cai.rubric import Ungraded, compile_rubric, grade, grade_many
from cai.rubric.grade import BATCH

ROOT = Path(__file__).parents[1]
PASSES = 3
"""The best of them counts."""
REPEATS = 4
"""How often the processes get the replies."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=usable_cores())
    processes = parser.parse_args().processes
    replies = ungraded_replies()
    words = [len(reply.response.split()) for reply in replies]
    print(f"{len(replies)} replies, median {statistics.median(words):.0f} words")
    for name in ("refusal_style", "refusal_style_fitted"):
        _, rubric = load_with_rubric(ROOT / "constitutions" / f"{name}.yaml")
        show_grading(name, rubric, replies, processes)
        show_files(name, replies, processes)


def ungraded_replies() -> list[Ungraded]:
    """Of the public sets, those of a word or two left out; or written by rule."""
    if os.environ.get("CAI_EVAL_DATA"):
        data = refusal_sets.data_folder("grade_speed")
        rows = [*refusal_sets.xstest(data), *refusal_sets.gptfuzz(data)]
        rows += refusal_sets.rbr_gold(data)
    else:
        rows = refusal_sets.written() * 10
    split = [(row.prompt, row.text.split()) for row in rows]
    return [
        Ungraded(prompt, " ".join(words[:200]), ("disallowed", "benign")[index % 2], finished=True)
        for index, (prompt, words) in enumerate(split)
        if len(words) >= 20
    ]


def show_grading(name: str, rubric: Rubric, replies: list[Ungraded], processes: int) -> None:
    compiled = compile_rubric(rubric)

    def one_at_a_time() -> None:
        for reply in replies:
            grade(
                compiled,
                prompt=reply.prompt,
                response=reply.response,
                kind=reply.kind,
                finished=reply.finished,
            )

    one_at_a_time()
    first = best_of(one_at_a_time, len(replies))
    show(f"{name}, one process, one at a time", first, first)
    many = best_of(lambda: grade_many(compiled, replies), len(replies))
    show(f"{name}, one process, in batches", many, first)
    show(f"{name}, {processes} processes", in_processes(rubric, replies, processes), first)


@dataclass(frozen=True)
class Speed:
    per_second: float
    """Replies, by the clock."""
    microseconds: float
    """Of all processors, for one reply."""


def best_of(work: Callable[[], object], replies: int) -> Speed:
    clock, processor = [], []
    for _ in range(PASSES):
        start, start_processor = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return Speed(replies / min(clock), min(processor) / replies * 1e6)


def in_processes(rubric: Rubric, replies: list[Ungraded], processes: int) -> Speed:
    """From when every process has had about all replies once."""
    batches = [replies[start : start + BATCH] for start in range(0, len(replies), BATCH)]
    items = batches * (processes + REPEATS)
    results = map_in_processes(partial(start_counting, rubric), items, processes=processes)
    begun: dict[int, float] = {}
    for _ in range(processes * len(batches)):
        _, process, seconds = next(results)
        begun[process] = seconds
    start, start_processor = time.perf_counter(), time.process_time()
    graded, ended = 0, dict(begun)
    for count, process, seconds in results:
        graded += count
        ended[process] = seconds
    clock = time.perf_counter() - start
    processor = time.process_time() - start_processor
    processor += sum(ended.values()) - sum(begun.values())
    return Speed(graded / clock, processor / graded * 1e6)


def start_counting(rubric: Rubric) -> Callable[[Sequence[Ungraded]], tuple[int, int, float]]:
    """Replies -> how many are graded, in which process, and its processor time so far."""
    compiled = compile_rubric(rubric)
    return lambda replies: (len(grade_many(compiled, replies)), os.getpid(), time.process_time())


def show_files(name: str, replies: list[Ungraded], processes: int) -> None:
    """`cai grade`, on the cores that this process may use, and on one of them."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "replies.jsonl")
        lines = [
            json.dumps({"prompt": reply.prompt, "response": reply.response, "kind": reply.kind})
            for reply in replies
        ]
        text = "\n".join([*lines, ""])
        count = LONG_INPUT // len(text) + 2
        source.write_text(text * count, encoding="utf-8")
        speeds = [file_speed(name, source, cores, count * len(lines)) for cores in (1, processes)]
        for cores, speed in zip((1, processes), speeds, strict=True):
            show(f"cai grade --constitution {name}, {cores} cores", speed, speeds[0])


def file_speed(constitution: str, source: Path, cores: int, replies: int) -> Speed:
    """Of `cai grade` on so many cores."""
    command = [sys.executable, "-m", "cai.cli", "grade", "--constitution", constitution]
    command += ["--input", str(source), "--output", "-"]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(  # noqa: S603 - the command is that above
        command,
        stdout=subprocess.DEVNULL,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Speed(replies / clock, processor / replies * 1e6)


def show(what: str, speed: Speed, first: Speed) -> None:
    print(
        f"{what:54} {speed.per_second:8,.0f} replies/s, {speed.per_second / first.per_second:5.2f} "
        f"times the first; {speed.microseconds:4.0f} µs of processor a reply",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""How far a judge's labels agree with people, on public pairs that the project does not ship; and what position does to it.

    CAI_EVAL_DATA=/path/to/data python benchmarks/judge_agreement.py [--rows 60] [--model smollm2] [--presets cai] [--sets llmbar]

reads `preference/hhh_alignment_221.jsonl` (arXiv:2112.00861), `preference/llmbar` (arXiv:2310.07641) and the harmless test pairs
of `preference/hh_rlhf` (arXiv:2204.05862), `--rows` evenly spaced pairs of each, the better reply shown first in every other one.
Prints, per set and preset: agreement with people with a 95 % interval, expected calibration error, how often the verdict of one
order alone flips when the replies change places, and how far labels lean to the reply that was shown first (0.5: not at all).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cai.async_map import gather
from cai.constitution import find, load_constitution
from cai.data.readers import asked
from cai.generate.label import PRESETS, LabelConfig, labeller
from cai.lm import open_lm
from cai.records import Chat, Pair, Preference, Score, chat_of
from cai.report.labels import against_people, diagnose

Known = tuple[Pair, float]


def hhh(data: Path) -> Iterator[tuple[Chat, str, str]]:
    for line in (data / "preference" / "hhh_alignment_221.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield chat_of(("user", row["prompt"])), row["chosen"], row["rejected"]


def llmbar(data: Path) -> Iterator[tuple[Chat, str, str]]:
    for file in sorted((data / "preference" / "llmbar").rglob("dataset.json")):
        for row in json.loads(file.read_text(encoding="utf-8")):
            first, second = row["output_1"], row["output_2"]
            yield chat_of(("user", row["input"])), *((first, second) if row["label"] == 1 else (second, first))


def harmless(data: Path) -> Iterator[tuple[Chat, str, str]]:
    for line in (data / "preference" / "hh_rlhf" / "harmless_base_test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        last = [row[key].rpartition("\n\nAssistant:")[2].strip() for key in ("chosen", "rejected")]
        yield asked(row["chosen"].rpartition("\n\nAssistant:")[0], "hh_rlhf"), last[0], last[1]


SETS = {"hhh_alignment": hhh, "llmbar": llmbar, "hh_rlhf": harmless}


def chosen(name: str, data: Path, count: int) -> list[Known]:
    """Evenly spaced pairs with P(first is better) by people."""
    rows = [row for row in SETS[name](data) if row[1].strip() != row[2].strip()]
    count = min(count, len(rows))
    found = []
    for number, (chat, better, worse) in enumerate(rows[index * len(rows) // count] for index in range(count)):
        pair = Pair(source=f"{name} {number}", chat=chat, first=better, second=worse)
        found.append((pair, 1.0) if number % 2 == 0 else (pair.swap(), 0.0))
    return found


def main() -> None:
    where = os.environ.get("CAI_EVAL_DATA")
    if not where:
        sys.exit("judge_agreement: set CAI_EVAL_DATA to the folder that holds preference/")
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=60)
    options.add_argument("--model", default="smollm2")
    options.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    options.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    given = options.parse_args()
    judge, book = open_lm(given.model), load_constitution(find("assistant"))
    for name in given.sets:
        known = chosen(name, Path(where), given.rows)
        for preset in given.presets:
            step = labeller(book, judge, LabelConfig(preset=preset), 0, lambda pair: (None, None))
            started = time.perf_counter()

            async def work(step: object = step, known: list[Known] = known) -> list[Preference]:
                return list(await gather([step(pair) for pair, _ in known]))  # type: ignore[operator]

            labels = asyncio.run(work())
            people = against_people(labels, {pair.id: human for pair, human in known})
            numbers = {score.metric: score for _, score in diagnose(labels).rows}
            print(f"{name}, {preset}: {len(known)} pairs, {time.perf_counter() - started:.0f} s")
            print(f"    agreement {told(people.agreement)}   ECE {people.ece if people.ece is None else round(people.ece, 3)}")
            for metric in ("label.flip_rate", "label.slot_lean", "label.p_first", "label.unscored_rate"):
                if metric in numbers:
                    print(f"    {metric.removeprefix('label.')} {told(numbers[metric])}", flush=True)


def told(score: Score) -> str:
    if score.mean is None or score.ci_low is None or score.ci_high is None:
        return "–"
    return f"{score.mean:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}] n={score.n}"


if __name__ == "__main__":
    main()

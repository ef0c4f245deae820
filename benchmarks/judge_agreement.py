"""A judge's agreement with people, and its position bias, on public pairs outside this project.

    CAI_EVAL_DATA=/path/to/data python benchmarks/judge_agreement.py \\
        [--rows 60] [--model smollm2] [--presets cai] [--sets llmbar]

Data: `preference/hhh_alignment_221.jsonl` (arXiv:2112.00861), `preference/llmbar`
(arXiv:2310.07641) and the harmless test pairs of `preference/hh_rlhf` (arXiv:2204.05862). Of each,
`--rows` evenly spaced pairs, the better reply first in every other one.

Prints, per set and preset: agreement with people with a 95 % interval, expected calibration error,
how often the verdict of one order alone flips when the replies are swapped, and the position bias:
nats of log-odds for the reply shown as (A), negative where the judge leans to (B).
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
from cai.constitution import Constitution, find_constitution, load_constitution
from cai.data.readers import dialogue_turns
from cai.generate.label import labeller
from cai.generate.label_config import PRESETS, LabelConfig
from cai.lm import open_lm
from cai.lm.base import LM
from cai.records import Chat, Pair, Preference, Score, chat_of
from cai.report.labels import compare_with_humans, diagnose

LabelledPair = tuple[Pair, float]
"""The second is P(first is better) by people."""


def hhh(data: Path) -> Iterator[tuple[Chat, str, str]]:
    path = data / "preference" / "hhh_alignment_221.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield chat_of(("user", row["prompt"])), row["chosen"], row["rejected"]


def llmbar(data: Path) -> Iterator[tuple[Chat, str, str]]:
    for path in sorted((data / "preference" / "llmbar").rglob("dataset.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            chat = chat_of(("user", row["input"]))
            if row["label"] == 1:
                yield chat, row["output_1"], row["output_2"]
            else:
                yield chat, row["output_2"], row["output_1"]


def harmless(data: Path) -> Iterator[tuple[Chat, str, str]]:
    path = data / "preference" / "hh_rlhf" / "harmless_base_test.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        dialogue, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
        rejected = row["rejected"].rpartition("\n\nAssistant:")[2]
        yield dialogue_turns(dialogue, "hh_rlhf"), chosen.strip(), rejected.strip()


SETS = {"hhh_alignment": hhh, "llmbar": llmbar, "hh_rlhf": harmless}


def evenly_spaced_pairs(name: str, data: Path, count: int) -> list[LabelledPair]:
    rows = [row for row in SETS[name](data) if row[1].strip() != row[2].strip()]
    count = min(count, len(rows))
    pairs = []
    for number in range(count):
        chat, better, worse = rows[number * len(rows) // count]
        pair = Pair(source=f"{name} {number}", chat=chat, first=better, second=worse)
        pairs.append((pair, 1.0) if number % 2 == 0 else (pair.swap(), 0.0))
    return pairs


def report(
    name: str, preset: str, judge: LM, constitution: Constitution, pairs: list[LabelledPair]
) -> None:
    """Label the pairs by one preset, and print the figures."""
    config = LabelConfig(preset=preset)
    step = labeller(constitution, judge, config, 0, lambda pair: (None, None))
    started = time.perf_counter()

    async def work() -> list[Preference]:
        return list(await gather([step(pair) for pair, _ in pairs]))

    labels = asyncio.run(work())
    seconds = time.perf_counter() - started
    people = compare_with_humans(labels, {pair.id: human for pair, human in pairs})
    scores = {score.metric: score for _, score in diagnose(labels).rows}
    ece = people.ece if people.ece is None else round(people.ece, 3)
    print(f"{name}, {preset}: {len(pairs)} pairs, {seconds:.0f} s")
    print(f"    agreement {score_text(people.agreement)}   ECE {ece}")
    for metric in (
        "label.flip_rate",
        "label.position_bias",
        "label.p_first",
        "label.unscored_rate",
    ):
        if metric in scores:
            label = metric.removeprefix("label.")
            print(f"    {label} {score_text(scores[metric])}", flush=True)


def score_text(score: Score) -> str:
    if score.mean is None or score.ci_low is None or score.ci_high is None:
        return "–"
    return f"{score.mean:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}] n={score.n}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    options = parser.parse_args()
    root = os.environ.get("CAI_EVAL_DATA")
    if not root:
        sys.exit("judge_agreement: set CAI_EVAL_DATA to the folder that holds preference/")
    judge = open_lm(options.model)
    constitution = load_constitution(find_constitution("assistant"))
    for name in options.sets:
        pairs = evenly_spaced_pairs(name, Path(root), options.rows)
        for preset in options.presets:
            report(name, preset, judge, constitution, pairs)


if __name__ == "__main__":
    main()

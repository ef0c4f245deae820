"""Replies with human labels of refusal, as the benchmarks of graders read them.

In `refusal_style` of CAI_EVAL_DATA: `xstest/completions_*.csv` (XSTest, arXiv:2308.01263, CC BY
4.0: replies of three models, three degrees), `gptfuzz/train.csv` (GPTFuzz, arXiv:2309.10253, MIT:
replies to jailbreaks, complied or not) and `rbr_gold/train.jsonl` (rule-based rewards,
arXiv:2411.01111, MIT: propositions).
"""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from written_replies import written_replies

PER_QUESTION = 20
"""Distinct GPTFuzz replies that are learnt from: there are many more, and they are of one kind."""


@dataclass(frozen=True, slots=True)
class Reply:
    source: str
    """The set; of XSTest, the model."""
    prompt: str
    """Its text or number."""
    text: str
    label: str
    """A degree of refusal; "refusal" where the degree is not known."""
    request: str = ""
    """What was asked; empty: unknown."""

    @property
    def complies(self) -> bool:
        return self.label == "full_compliance"


def data_folder(benchmark: str) -> Path:
    root = os.environ.get("CAI_EVAL_DATA")
    if not root:
        sys.exit(
            f"{benchmark}: set CAI_EVAL_DATA to the folder with refusal_style/xstest, "
            "refusal_style/gptfuzz and refusal_style/rbr_gold"
        )
    return Path(root) / "refusal_style"


def xstest(data: Path) -> list[Reply]:
    return [
        Reply(
            path.stem.removeprefix("completions_"),
            row["prompt"],
            row["completion"],
            row["final_label"][2:],
            request=row["prompt"],
        )
        for path in sorted((data / "xstest").glob("completions_*.csv"))
        for row in csv_rows(path)
    ]


def gptfuzz(data: Path) -> list[Reply]:
    with (data / "gptfuzz" / "question_list.csv").open(encoding="utf-8", newline="") as lines:
        questions = [row["text"] for row in csv.DictReader(lines)]
    return [
        Reply(
            "gptfuzz",
            f"question {row['question']}",
            row["Response"],
            "full_compliance" if row["label"] == "1" else "refusal",
            request=questions[int(row["question"])],
        )
        for row in csv_rows(data / "gptfuzz" / "train.csv")
    ]


def some_of_each_question(replies: list[Reply]) -> list[Reply]:
    """`PER_QUESTION` distinct replies of each prompt, drawn by a fixed seed."""
    texts: dict[str, dict[str, Reply]] = {}
    for reply in replies:
        texts.setdefault(reply.prompt, {}).setdefault(reply.text, reply)
    drawn = []
    for prompt, by_text in sorted(texts.items()):
        distinct = list(by_text.values())
        random.Random(prompt).shuffle(distinct)
        drawn += distinct[:PER_QUESTION]
    return drawn


def rbr_gold(data: Path) -> list[Reply]:
    """Replies that comply in full, or not at all: what lies between is no refusal by its labels."""
    replies = []
    for row in gold_rows(data):
        labels = row["propositions"]
        if labels["fully_complies"] or not labels["partially_complies"]:
            label = "full_compliance" if labels["fully_complies"] else "refusal"
            prompt = json.dumps(row["prompt"])
            text, request = row["completion"][0]["content"], row["prompt"][-1]["content"]
            replies.append(Reply("rbr_gold", prompt, text, label, request))
    return replies


def written() -> list[Reply]:
    return [
        Reply("written", reply.prompt, reply.response, reply.label, reply.prompt)
        for reply in written_replies()
    ]


def gold_rows(data: Path) -> list[dict[str, Any]]:
    text = (data / "rbr_gold" / "train.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))

"""The commands on files that call a model: their options, inputs, and an endpoint that answers all.

`grade`, `calibrate` and `label` read log-probabilities, the others sample.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from canned import Canned, CannedLM, Request, choice_answer, ok, reply_answer
from json_lines import write_lines
from rubric_toys import MODEL_TOY

ROWS = 12
SPEC = "http://127.0.0.1:1/v1#toy"
COMMANDS: dict[str, tuple[str, ...]] = {
    "label": ("--constitution", "helpful_honest", "--input", "rows.jsonl", "--output", "o.jsonl"),
    "revise": ("--constitution", "harmless", "--input", "rows.jsonl", "--output", "o.jsonl"),
    "grade": ("--constitution", "harmless", "--input", "rows.jsonl", "--output", "o.jsonl",
              "--ask-all"),
    "eval": ("--only", "refusal", "--data", "rows.jsonl", "--output", "o.jsonl"),
    "redteam": ("--constitution", "harmless", "--seeds", "seeds.jsonl", "--category", "fraud",
                "--per-category", "6", "--near", "1", "--output", "o.jsonl"),
    "calibrate": ("--constitution", "toy.yaml", "--input", "labelled.jsonl", "--output", "o.yaml"),
    "near-miss": ("--constitution", "harmless", "--prompts", "seeds.jsonl", "--output", "o.jsonl"),
}  # fmt: skip
"""Command -> its options but --model."""
CHOICES = ("label", "grade", "calibrate")


def write_inputs(folder: Path, rows: int = ROWS) -> None:
    """The files that `COMMANDS` name."""
    texts = [
        {"prompt": f"Tell me {i}.", "kind": "benign", "response": f"Well {i}."} for i in range(rows)
    ]
    replies = {"first": "A b.", "second": "C d."}
    write_lines(folder / "rows.jsonl", *(row | replies for row in texts))
    write_lines(
        folder / "labelled.jsonl",
        *(row | {"propositions": {"kind": i % 2 == 0}} for i, row in enumerate(texts)),
    )
    seeds = [{"prompt": f"Ask {i} now.", "kind": "disallowed", "category": "fraud"} for i in (1, 2)]
    write_lines(folder / "seeds.jsonl", *seeds)
    toy = {"name": "toy", "version": "1", "rubric": MODEL_TOY}
    (folder / "toy.yaml").write_text(json.dumps(toy), encoding="utf-8")


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """A message of its own for each request, or log-odds of its own for the options."""
    stream = random.Random(sha256(json.dumps(body, sort_keys=True).encode()).hexdigest())
    if body.get("logprobs"):
        low = -0.1 - stream.random()
        options = ("A", " B") if "(A)" in json.dumps(body["messages"][-2:]) else ("Yes", "No")
        return choice_answer((options[0], low), (options[1], -2.5))
    words = ["".join(stream.choice("bdfgklmnprst") + stream.choice("aeiou") for _ in range(3))
             for _ in range(8)]  # fmt: skip
    return reply_answer(f"Tell me about {' '.join(words)}")


class Endpoint:
    """Opens models whose answers are those of `respond`, and counts the requests."""

    def __init__(self, respond: Callable[[dict[str, Any]], Canned | None] = lambda body: None):
        self.respond = respond
        self.requests = 0
        self.opened: list[CannedLM] = []

    def open(self, spec: str, config: Any) -> CannedLM:
        """For `cai.lm.HttpLM`."""

        def respond(body: dict[str, Any], request: Request) -> Canned:
            self.requests += 1
            return self.respond(body) or ok(answer(body))

        self.opened.append(CannedLM(respond, config, spec=spec))
        return self.opened[-1]

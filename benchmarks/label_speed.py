"""Labelling pairs in both orders by reading the options' log-probabilities, against sampling a written verdict and parsing it.

    python benchmarks/label_speed.py [PAIRS] [MODEL]

The same pairs, principles, few-shots and batches on both sides; the judge that writes gets 64 tokens per order. Prints seconds of
each, how many verdicts could be parsed at all, and the ratio.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from cai import templates
from cai.constitution import find, load
from cai.generate.label import LabelConfig, asked_by, labeller
from cai.hygiene.inputs import prompt_rows
from cai.lm import open_lm
from cai.records import Pair
from cai.seeds import derive
from cai.store import together

ROOT = Path(__file__).parents[1]
REPLIES = (
    "I'm sorry, but I can't help with that. Is there something else I can do?",
    "Sure. First gather what you need, then begin.",
)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    judge, book = open_lm(sys.argv[2] if len(sys.argv) > 2 else "smollm2"), load(find("assistant"))
    prompts = [p for name in ("disallowed", "benign") for p in prompt_rows(ROOT / "examples" / "prompts" / f"{name}.jsonl")]
    pairs = [
        Pair(source=p.id, chat=p.chat, first=REPLIES[0], second=REPLIES[1]) for p in prompts[:: max(1, len(prompts) // count)]
    ]
    pairs, config = pairs[:count], LabelConfig()
    step = labeller(book, judge, config, 0, lambda pair: (None, None))

    async def write(pair: Pair) -> list[str | None]:
        [principle] = asked_by(book, config, None, 0, pair, None)
        assert principle is not None  # noqa: S101
        shots, verdicts = book.examples.compare, []
        for one in (pair, pair.swap()):
            chat = templates.compare_chat(shots, one.chat, one.first, one.second, principle.compare or "")
            said = await judge.sample(chat, max_tokens=64, temperature=0.0, seed=derive(0, pair.id))
            verdicts.append(templates.parse_verdict(said.text))
        return verdicts

    async def timed(work: list[object]) -> tuple[float, list[object]]:
        started = time.perf_counter()
        found = list(await together(work))  # type: ignore[arg-type]
        return time.perf_counter() - started, found

    read, labels = asyncio.run(timed([step(pair) for pair in pairs]))
    print(f"log-probabilities: {len(labels)} pairs, {read:.1f} s", flush=True)
    wrote, verdicts = asyncio.run(timed([write(pair) for pair in pairs]))
    parsed = sum(verdict is not None for both in verdicts for verdict in both)  # type: ignore[attr-defined]
    print(f"written verdicts: {len(verdicts)} pairs, {wrote:.1f} s, {parsed} of {2 * len(verdicts)} could be parsed")
    print(f"ratio {wrote / read:.1f}")


if __name__ == "__main__":
    main()

"""Memory and speed of prompt hygiene and of its output, filter by filter, at 100,000 and 1,000,000 made-up prompts.

    python benchmarks/hygiene_memory.py [COUNT...]

Each filter runs in a process of its own. "growth" is the highest resident memory less what it was once the libraries were loaded
and a thousand prompts had gone through. Prompts are drawn anew from a seed each time they are read: no file decides the speed.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cai.data.dedupe import clean, kept
from cai.data.filters import HygieneConfig, Rules
from cai.data.writers import write_prompts
from cai.records import Prompt, chat_of

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "s", "t", "ld", "mp")]
FILTERS: dict[str, dict[str, object]] = {
    "exact": {},
    "length": {"max_tokens": 60},
    "prefix": {"prefix": 40},
    "user": {"per_user": 3},
    "near": {"near": 0.8},
    "language": {"languages": ("en",)},
    "pii": {"pii": "mask"},
    "against": {"against": ("evaluation",)},
    "all": {"max_tokens": 60, "prefix": 40, "per_user": 3, "near": 0.8, "pii": "mask", "against": ("evaluation",)},
}


def prompts(count: int) -> Iterator[Prompt]:
    """About one in ten repeats an earlier one with a word changed, one in fifty holds an address."""
    stream = random.Random(5)
    recent: list[list[str]] = []
    for i in range(count):
        if recent and stream.random() < 0.1:
            said = list(stream.choice(recent))
            said[stream.randrange(len(said))] = stream.choice(WORDS)
        else:
            said = stream.choices(WORDS, k=stream.randrange(12, 40))
        recent = [*recent[-50:], said]
        mail = f" write to user{i}@example.org" if i % 50 == 0 else ""
        yield Prompt(chat=chat_of(("user", " ".join(said) + mail)), user=f"user {stream.randrange(count // 2 + 1)}")


def one(name: str, count: int) -> None:
    config = HygieneConfig.model_validate(FILTERS[name])
    evaluation = [" ".join(random.Random(i).choices(WORDS, k=200)) for i in range(1000)] if config.against else []
    rules = Rules(config, lambda text: len(text.split()), evaluation)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"

        def through(number: int) -> dict[str, int]:
            found = clean(lambda: prompts(number), config, rules)
            write_prompts(out, kept(lambda: prompts(number), rules, found))
            return dict(found.counts)

        through(1000)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        counts = through(count)
        seconds = time.perf_counter() - started
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    told = {"filter": name, "prompts": count, "rows_s": round(count / seconds), "growth_MB": round(growth), "counts": counts}
    print(json.dumps(told), flush=True)


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in FILTERS:
        one(sys.argv[1], int(sys.argv[2]))
        return
    for count in map(int, sys.argv[1:] or ("100000", "1000000")):
        for name in FILTERS:
            subprocess.run([sys.executable, __file__, name, str(count)], check=True)  # noqa: S603


if __name__ == "__main__":
    main()

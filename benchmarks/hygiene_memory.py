"""Memory and speed of prompt hygiene and of its output, filter by filter.

    python benchmarks/hygiene_memory.py [COUNT...]

By default at 100,000 and 1,000,000 synthetic prompts. Each filter runs in a process of its own.
"growth" is the highest resident memory less its value after the libraries were loaded and a
thousand prompts processed. Prompts are generated from a seed each time, so no file decides the
speed.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cai.data.dedupe import clean, filtered_prompts
from cai.data.filters import HygieneConfig, PromptFilters
from cai.data.writers import write_prompts
from cai.records import Prompt, chat_of

ENDINGS = ("n", "r", "s", "t", "ld", "mp")
WORDS = ["".join(parts) for parts in itertools.product("bdfgklmnprst", "aeiou", ENDINGS)]
FILTERS: dict[str, dict[str, object]] = {
    "exact": {},
    "length": {"max_tokens": 60},
    "prefix": {"prefix": 40},
    "user": {"per_user": 3},
    "near": {"near": 0.8},
    "language": {"languages": ("en",)},
    "pii": {"pii": "mask"},
    "against": {"against": ("evaluation",)},
    "all": {
        "max_tokens": 60,
        "prefix": 40,
        "per_user": 3,
        "near": 0.8,
        "pii": "mask",
        "against": ("evaluation",),
    },
}


def prompts(count: int) -> Iterator[Prompt]:
    """Prompts of which one in ten repeats an earlier one with a word changed.

    One in fifty holds a mail address.
    """
    stream = random.Random(5)
    recent: list[list[str]] = []
    for i in range(count):
        if recent and stream.random() < 0.1:
            words = list(stream.choice(recent))
            words[stream.randrange(len(words))] = stream.choice(WORDS)
        else:
            words = stream.choices(WORDS, k=stream.randrange(12, 40))
        recent = [*recent[-50:], words]
        mail = f" write to user{i}@example.org" if i % 50 == 0 else ""
        user = f"user {stream.randrange(count // 2 + 1)}"
        yield Prompt(chat=chat_of(("user", " ".join(words) + mail)), user=user)


def measure(name: str, count: int) -> None:
    """Print one line: speed, memory growth and counts of one filter."""
    config = HygieneConfig.model_validate(FILTERS[name])
    evaluation = []
    if config.against:
        evaluation = [" ".join(random.Random(i).choices(WORDS, k=200)) for i in range(1000)]
    rules = PromptFilters(config, lambda text: len(text.split()), evaluation)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.parquet"

        def process(number: int) -> dict[str, int]:
            cleaned = clean(lambda: prompts(number), config, rules)
            write_prompts(out, filtered_prompts(lambda: prompts(number), rules, cleaned))
            return dict(cleaned.counts)

        process(1000)
        before = peak_rss_kib()
        started = time.perf_counter()
        counts = process(count)
        seconds = time.perf_counter() - started
        growth = (peak_rss_kib() - before) / 1024
    line = {"filter": name, "prompts": count, "rows_s": round(count / seconds)}
    line |= {"growth_MB": round(growth), "counts": counts}
    print(json.dumps(line), flush=True)


def peak_rss_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in FILTERS:
        measure(sys.argv[1], int(sys.argv[2]))
        return
    for count in map(int, sys.argv[1:] or ("100000", "1000000")):
        for name in FILTERS:
            command = [sys.executable, __file__, name, str(count)]
            subprocess.run(command, check=True)  # noqa: S603


if __name__ == "__main__":
    main()

"""Near-duplicate search side by side with datatrove and text-dedup on the same rows.

    python benchmarks/near_duplicates.py [COUNT] [--tools cai datatrove text_dedup]

By default 20,000 rows of words with names in them, made by rule. One row in ten is a copy of
another row with some words changed, so its similarity is known exactly: the Jaccard index of the
two sets of three-word shingles. All tools get three-word shingles of the same words, 64
permutations and a threshold of 0.77: `cai` estimates the similarity of candidates from 16 bands of
4 and compares it with the threshold; the others know a threshold only as the shape of their bands,
8 of 8. A tool that is not installed is named on standard error, and left out.

Each tool runs in a process of its own, after a thousand rows to warm up, from rows in its own form
(a list, or a data set on disk) to the rows that it keeps. datatrove's four steps run one after
another in that process; the others use two cores. One line of JSON a tool. `rows_cpu_s`: rows a
second of processor time, all processes together; `rows_s`: a second that passed. `found`: share of
the planted pairs of which it drops one row, by the number of changed words, beside the mean
similarity; `recall`: the same of all pairs from the threshold on; `found_below`: of all pairs
below it; `others`: dropped rows of no planted pair.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import synthetic_rows

from cai.data.dedupe import clean
from cai.data.filters import HygieneConfig, PromptFilters
from cai.data.words import shingles
from cai.records import Prompt, chat_of

THRESHOLD, PERMUTATIONS, SHINGLE_WORDS = 0.77, 64, 3
BANDS, BAND_ROWS = 8, 8
"""Of the tools that compare bands alone: (1 / 8) ** (1 / 8) is the threshold."""
CHANGED = (0, 1, 2, 3, 4, 6)
"""Words changed in a copy."""
PROCESSES = 2
Texts = Sequence[str]


def planted(count: int) -> tuple[list[str], list[tuple[int, int, int]]]:
    """(texts, (original, copy, words changed)): the copies are spread among the other rows."""
    stream = random.Random(11)
    copies = count // 10
    originals = [" ".join(words(stream)) for _ in range(count - copies)]
    order = list(range(count))
    stream.shuffle(order)
    texts, pairs = [""] * count, []
    for place, text in zip(order, originals, strict=False):
        texts[place] = text
    for number, place in enumerate(order[len(originals) :]):
        changed = CHANGED[number % len(CHANGED)]
        copy = originals[number].split()
        for position in stream.sample(range(len(copy)), changed):
            copy[position] = synthetic_rows.name(stream).lower()
        texts[place] = " ".join(copy)
        pairs.append((order[number], place, changed))
    return texts, pairs


def words(stream: random.Random) -> list[str]:
    """Three sentences, in small letters and without punctuation: the same words for every tool."""
    sentences = " ".join(synthetic_rows.sentence(stream) for _ in range(3))
    return sentences.lower().replace("?", "").split()


def similarity(first: str, second: str) -> float:
    """The exact Jaccard index of the shingles."""
    one, other = set(shingles(first)), set(shingles(second))
    return len(one & other) / len(one | other)


# ---- the tools: texts -> (what is timed, which returns the kept rows) ----


def cai(texts: Texts, folder: Path) -> Callable[[], set[int]]:
    prompts = [Prompt(chat=chat_of(("user", text))) for text in texts]
    config = HygieneConfig(near=THRESHOLD)
    rules = PromptFilters(config, len)

    def run() -> set[int]:
        cleaned = clean(lambda: iter(prompts), config, rules)
        return {index for index, code in enumerate(cleaned.codes) if code == 0}

    return run


def datatrove(texts: Texts, folder: Path) -> Callable[[], set[int]]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Spaces(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return [(0, len(text))]

    config = minhash.MinhashConfig(
        n_grams=SHINGLE_WORDS, num_buckets=BANDS, hashes_per_bucket=BAND_ROWS
    )
    documents = [Document(text=text, id=str(index)) for index, text in enumerate(texts)]
    signatures, buckets, removed = (str(folder / name) for name in ("1", "2", "3"))

    def run() -> set[int]:
        minhash.MinhashDedupSignature(signatures, config, Spaces()).run(documents)
        for bucket in range(BANDS):
            step = minhash.MinhashDedupBuckets(signatures, buckets, config=config)
            step.run(rank=bucket, world_size=BANDS)
        minhash.MinhashDedupCluster(buckets, removed, config).run()
        kept = minhash.MinhashDedupFilter(removed).run(documents)
        return {int(document.id) for document in kept}

    return run


def text_dedup(texts: Texts, folder: Path) -> Callable[[], set[int]]:
    import datasets
    from text_dedup.minhash import main as command

    rows = {"text": list(texts), "row": list(range(len(texts)))}
    datasets.Dataset.from_dict(rows).save_to_disk(folder / "in")
    settings = {
        "path": folder / "in", "output": folder / "out", "cache_dir": folder, "column": "text",
        "ngram": SHINGLE_WORDS, "min_length": 1, "num_perm": PERMUTATIONS, "b": BANDS,
        "r": BAND_ROWS, "hash_func": "xxh3", "num_proc": PROCESSES,
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in (f"--{key}", str(value))]

    def run() -> set[int]:
        command.main(["--local", *options], standalone_mode=False)
        return set(datasets.load_from_disk(folder / "out")["row"])

    return run


TOOLS: dict[str, Callable[[Texts, Path], Callable[[], set[int]]]] = {
    tool.__name__: tool for tool in (cai, datatrove, text_dedup)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", nargs="?", type=int, default=20_000)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--measured", nargs=2, metavar=("TOOL", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        measure(options.count, options.measured[0], Path(options.measured[1]))
        return
    texts, pairs = planted(options.count)
    similarities = [similarity(texts[first], texts[second]) for first, second, _ in pairs]
    for tool in options.tools:
        if importlib.util.find_spec(tool) is None:
            print(f"{tool}: not installed, left out", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = measured(options.count, tool, Path(folder))
        if result is not None:
            kept = set(result.pop("kept"))
            print(json.dumps(result | quality(kept, options.count, pairs, similarities)))
            sys.stdout.flush()


def measured(count: int, tool: str, folder: Path) -> dict[str, Any] | None:
    """What a process of its own measured; None, and a line on standard error: it failed."""
    command = [sys.executable, __file__, str(count), "--measured", tool, str(folder)]
    environment = os.environ | {"LOGURU_LEVEL": "ERROR", "HF_DATASETS_CACHE": str(folder / "hf")}
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, env=environment
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{tool}: failed, left out: {reason}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def measure(count: int, tool: str, folder: Path) -> None:
    warm, texts = planted(1000)[0], planted(count)[0]
    for name, rows in (("warm", warm), ("measured", texts)):
        (folder / name).mkdir()
        run = TOOLS[tool](rows, folder / name)
        started, cpu = time.perf_counter(), sum(os.times()[:4])
        kept = run()
        seconds, cpu = time.perf_counter() - started, sum(os.times()[:4]) - cpu
    result = {"tool": tool, "rows": count, "rows_cpu_s": round(count / cpu)}
    result |= {"rows_s": round(count / seconds), "kept": sorted(kept)}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def quality(
    kept: set[int], count: int, pairs: list[tuple[int, int, int]], similarities: list[float]
) -> dict[str, Any]:
    """How many of the planted pairs a tool found, and what else it dropped."""
    hits = [not {first, second} <= kept for first, second, _ in pairs]
    found = {}
    for changed in CHANGED:
        chosen = [i for i, pair in enumerate(pairs) if pair[2] == changed]
        mean = sum(similarities[i] for i in chosen) / len(chosen)
        found[f"{changed} ({mean:.2f})"] = round(sum(hits[i] for i in chosen) / len(chosen), 3)
    alike = [hit for hit, value in zip(hits, similarities, strict=True) if value >= THRESHOLD]
    unlike = [hit for hit, value in zip(hits, similarities, strict=True) if value < THRESHOLD]
    planted_rows = {row for first, second, _ in pairs for row in (first, second)}
    return {
        "found": found,
        "recall": round(sum(alike) / len(alike), 4),
        "found_below": round(sum(unlike) / len(unlike), 4),
        "others": len(set(range(count)) - planted_rows - kept),
    }


if __name__ == "__main__":
    main()

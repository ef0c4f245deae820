"""How far the shipped rubric's `degree` agrees with people, on public data that the project does not ship.

    CAI_EVAL_DATA=/path/to/data python benchmarks/rubric_agreement.py

reads `refusal_style/xstest/completions_*.csv` (XSTest, arXiv:2308.01263: 3 x 450 replies, human labels) and
`refusal_style/gptfuzz/train.csv` (GPTFuzz, arXiv:2309.10253: replies to jailbreaks, human labels), and prints agreement with 95 %
Wilson intervals. Two-way: full compliance against any refusal. The patterns were written with these figures in view: not a
held-out test.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from scipy.stats import binomtest

from cai.constitution.load import load
from cai.rubric import Compiled, compile_rubric, grade

ROOT = Path(__file__).parents[1]


def main() -> None:
    where = os.environ.get("CAI_EVAL_DATA")
    if not where:
        sys.exit("rubric_agreement: set CAI_EVAL_DATA to the folder with refusal_style/xstest and refusal_style/gptfuzz")
    data = Path(where) / "refusal_style"
    rubric = load(ROOT / "constitutions" / "refusal_style.yaml").rubric
    if rubric is None:
        sys.exit("rubric_agreement: constitutions/refusal_style.yaml has no rubric")
    compiled = compile_rubric(rubric)
    files = sorted((data / "xstest").glob("completions_*.csv"))
    gptfuzz = data / "gptfuzz" / "train.csv"
    if not files or not gptfuzz.exists():
        sys.exit(f"rubric_agreement: {data} lacks xstest/completions_*.csv or gptfuzz/train.csv")

    start = time.perf_counter()
    pairs: list[tuple[str, str]] = []
    for path in files:
        own = [(row["final_label"][2:], degree(compiled, row["prompt"], row["completion"])) for row in rows(path)]
        show(f"xstest {path.stem.removeprefix('completions_')}", own)
        pairs += own
    show("xstest all", pairs)
    labels = {"0": "full_refusal", "1": "full_compliance"}
    fuzz = [(labels[row["label"]], degree(compiled, "", row["Response"])) for row in rows(gptfuzz)]
    show("gptfuzz", fuzz, three_way=False)
    total = len(pairs) + len(fuzz)
    print(f"{total / (time.perf_counter() - start):,.0f} replies/s, one process, reading included")


def rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def degree(compiled: Compiled, prompt: str, response: str) -> str:
    return grade(compiled, prompt=prompt, response=response, kind=None).degree


def show(name: str, pairs: list[tuple[str, str]], *, three_way: bool = True) -> None:
    complied = [(people == "full_compliance", rubric == "full_compliance") for people, rubric in pairs]
    line(f"{name} 2-way", sum(people == rubric for people, rubric in complied), len(pairs))
    for kind, label in ((False, "refusals found"), (True, "compliance found")):
        line(
            f"{name}   {label}",
            sum(rubric is kind for people, rubric in complied if people is kind),
            sum(p is kind for p, _ in complied),
        )
    if three_way:
        line(f"{name} 3-way", sum(people == rubric for people, rubric in pairs), len(pairs))
        most = Counter(people for people, _ in pairs).most_common(1)[0]
        line(f"{name} 3-way, always {most[0]}", most[1], len(pairs))


def line(name: str, hits: int, n: int) -> None:
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    print(f"{name:45} {hits / n:.3f}  [{low:.3f}, {high:.3f}]  n = {n}")


if __name__ == "__main__":
    main()

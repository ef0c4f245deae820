"""How far the shipped rubric agrees with people, and how fast it is, on public data that the project does not ship.

    CAI_EVAL_DATA=/path/to/data python benchmarks/rubric_agreement.py

reads, in `refusal_style`: `xstest/completions_*.csv` (XSTest, arXiv:2308.01263: 3 x 450 replies, human labels),
`gptfuzz/train.csv` (GPTFuzz, arXiv:2309.10253: replies to jailbreaks, human labels), and `rbr_gold/train.jsonl` (rule-based
rewards, arXiv:2411.01111: 351 replies, 22 propositions each). Shares have 95 % Wilson intervals, F1 a seeded bootstrap over
replies. Two-way: full compliance against any refusal.

The patterns were written with XSTest and GPTFuzz in view, `declines` and `judges` with some of rbr_gold too: for them that is
no held-out test. `fitted` is `refusal_style_fitted` with its text model fitted anew on the other models' replies and on GPTFuzz
(for XSTest), or on XSTest and the other four fifths of GPTFuzz's questions (for GPTFuzz): what it is tested on it has not seen.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cai.constitution.load import load_constitution
from cai.constitution.schema import Rubric
from cai.rubric import CompiledRubric, compile_rubric, grade
from cai.rubric.fit_weights import FitConfig, Ranked, errors, fit, split_prompts
from cai.rubric.propositions import read_reply, unquoted_text
from cai.rubric.text_classifier import Labelled, TextFit, fit_text, words_of

ROOT = Path(__file__).parents[1]
Array = NDArray[np.bool_]
LIKE = {
    "apology": "apologises",
    "inability_to_comply": "declines",
    "judgement": "judges",
    "disclaimer": "warns",
    "encourage_professional_help": "supports",
    "gentle_encouragement_for_help": "supports",
}
"""Their proposition -> the nearest of ours. `reference_safety_policy` and others have none."""
PIECES = (
    "a",
    "i can't ",
    '"',
    "``` ",
    "you can ",
    " 1. ",
    "sorry ",
    "my very ",
    "is a ",
    "if you want ",
    "\u2019\u200b\ufb03",
    "\n",
    "😀",
    "שלום ",
)
"""Beginnings of patterns, and characters of several kinds."""


def main() -> None:
    where = os.environ.get("CAI_EVAL_DATA")
    if not where:
        sys.exit("rubric_agreement: set CAI_EVAL_DATA to the folder with refusal_style/xstest and refusal_style/gptfuzz")
    data = Path(where) / "refusal_style"
    compiled = compile_rubric(shipped("refusal_style"))
    files = sorted((data / "xstest").glob("completions_*.csv"))
    gptfuzz = data / "gptfuzz" / "train.csv"
    if not files or not gptfuzz.exists():
        sys.exit(f"rubric_agreement: {data} lacks xstest/completions_*.csv or gptfuzz/train.csv")

    pairs: list[tuple[str, str]] = []
    for path in files:
        own = [(row["final_label"][2:], degree(compiled, row["prompt"], row["completion"])) for row in rows(path)]
        show(f"xstest {path.stem.removeprefix('completions_')}", own)
        pairs += own
    show("xstest all", pairs)
    labels = {"0": "full_refusal", "1": "full_compliance"}
    fuzz = [(labels[row["label"]], degree(compiled, "", row["Response"])) for row in rows(gptfuzz)]
    show("gptfuzz", fuzz, three_way=False)
    fitted_figures(files, rows(gptfuzz))
    gold = [json.loads(text) for text in (data / "rbr_gold" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    propositions(compiled, gold)
    weights()
    adversarial(compiled)
    replies = [row["completion"] for path in files for row in rows(path)] + [row["Response"] for row in rows(gptfuzz)]
    speed("patterns", compiled, replies)
    speed("patterns + text model", compile_rubric(shipped("refusal_style_fitted")), replies)


def shipped(name: str) -> Rubric:
    rubric = load_constitution(ROOT / "constitutions" / f"{name}.yaml").rubric
    if rubric is None:
        sys.exit(f"rubric_agreement: constitutions/{name}.yaml has no rubric")
    return rubric


def fitted_figures(files: list[Path], fuzz: Iterator[dict[str, str]]) -> None:
    """The cascade of text model and patterns, on replies that the text model was not fitted on."""
    models = {path.stem.removeprefix("completions_"): list(rows(path)) for path in files}
    jailbreaks = list(fuzz)
    xstest = {
        name: [labelled(row["prompt"], row["completion"], row["final_label"] == "1_full_compliance") for row in own]
        for name, own in models.items()
    }
    gptfuzz = [labelled(row["question"], row["Response"], row["label"] == "1", 0.1) for row in jailbreaks]

    pairs: list[tuple[str, str]] = []
    for name, own in models.items():
        compiled = refitted([row for other, told in xstest.items() if other != name for row in told] + gptfuzz)
        found = [(row["final_label"][2:], degree(compiled, row["prompt"], row["completion"])) for row in own]
        show(f"fitted: xstest {name}", found)
        pairs += found
    show("fitted: xstest all", pairs)

    questions = sorted({row["question"] for row in jailbreaks})
    fuzzed: list[tuple[str, str]] = []
    for fold in range(5):
        held = set(questions[fold::5])
        learn = [row for told in xstest.values() for row in told]
        learn += [replace(own, weight=1.0) for own, row in zip(gptfuzz, jailbreaks, strict=True) if row["question"] not in held]
        compiled = refitted(learn)
        for row in jailbreaks:
            if row["question"] in held:
                people = "full_compliance" if row["label"] == "1" else "full_refusal"
                fuzzed.append((people, degree(compiled, "", row["Response"])))
    show("fitted: gptfuzz, 5 folds by question", fuzzed, three_way=False)


def labelled(prompt: str, reply: str, complied: bool, weight: float = 1.0) -> Labelled:
    return Labelled(prompt, words_of(unquoted_text(reply)), complied, weight)


def refitted(learn: list[Labelled]) -> CompiledRubric:
    """`refusal_style_fitted` with another text model."""
    rubric = shipped("refusal_style_fitted")
    model = fit_text(learn, TextFit(replies=30), ())
    own = {id: p.model_copy(update={"fitted": model}) if p.fitted else p for id, p in rubric.propositions.items()}
    return compile_rubric(rubric.model_copy(update={"propositions": own}))


def propositions(compiled: CompiledRubric, gold: list[dict[str, Any]]) -> None:
    """F1 of our proposition against the one of theirs that means about the same."""
    tests = dict(compiled.tests)
    replies = [read_reply(row["prompt"][-1]["content"], row["completion"][0]["content"], compiled.prefilter) for row in gold]
    for theirs, ours in LIKE.items():
        people = np.array([bool(row["propositions"][theirs]) for row in gold])
        rubric = np.array([tests[ours](reply) > 0.5 for reply in replies])
        stream = np.random.default_rng(0)
        draws = [stream.integers(len(gold), size=len(gold)) for _ in range(2000)]
        low, high = np.quantile([f1(people[i], rubric[i]) for i in draws], [0.025, 0.975])
        found = f1(people, rubric)
        name = f"rbr_gold {theirs} ({ours}) F1"
        print(f"{name:45} {found:.3f}  [{low:.3f}, {high:.3f}]  n = {len(gold)}, {people.sum()} positive")


def weights(prompts: int = 1250, replies: int = 4, features: int = 12) -> None:
    """How long fitting takes, and whether it finds the order that planted weights give."""
    stream = np.random.default_rng(0)
    true = dict(zip([f"feature_{at}" for at in range(features)], stream.normal(size=features), strict=True))
    rows = []
    for prompt in range(prompts):
        found = [dict(zip(true, stream.random(features) < 0.4, strict=True)) for _ in range(replies)]
        rows += [Ranked(str(prompt), -sum(true[name] * row[name] for name in true), row) for row in found]
    learn, held = split_prompts(rows, 0.2, 0)
    start = time.perf_counter()
    fitted = fit(learn, dict.fromkeys(true, 0.0), FitConfig(keep_signs=False, penalty=0.0))
    seconds = time.perf_counter() - start
    wrong = statistics.fmean(error for _, error in errors(held, fitted.weights, fitted.scale, "rubric"))
    print(
        f"weights of {features} features, {len(learn)} of {len(rows)} replies: {seconds:.1f} s, held-out pairs wrong {wrong:.4f}"
    )


def f1(people: Array, rubric: Array) -> float:
    both = int((people & rubric).sum())
    return 2 * both / max(1, int(people.sum()) + int(rubric.sum()))


def speed(name: str, compiled: CompiledRubric, replies: list[str]) -> None:
    """Replies a second on one core, grading alone. Replies are cut to 200 words, which brings their median near a hundred."""
    texts = [" ".join(words[:200]) for text in replies if len(words := text.split()) >= 20]
    median = statistics.median(len(text.split()) for text in texts)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for text in texts:
            degree(compiled, "", text)
        best = max(best, len(texts) / (time.perf_counter() - start))
    print(f"{name}: {best:,.0f} replies/s, one process, {len(texts)} replies with a median of {median:.0f} words, best of 3")


def adversarial(compiled: CompiledRubric) -> None:
    """Ten times the text must take about ten times as long, whatever is repeated in it."""
    for piece in PIECES:
        seconds = []
        for size in (100_000, 1_000_000):
            start = time.perf_counter()
            degree(compiled, "", piece * (size // len(piece)))
            seconds.append(time.perf_counter() - start)
        print(f"{f'1 MB of {piece!r}':45} {seconds[1]:.2f} s, {seconds[1] / seconds[0]:.1f} times as long as 0.1 MB")


def rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def degree(compiled: CompiledRubric, prompt: str, response: str) -> str:
    return str(grade(compiled, prompt=prompt, response=response, kind=None).degree)


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
        names = sorted({people for people, _ in pairs})
        macro = statistics.fmean(
            f1(np.array([people == name for people, _ in pairs]), np.array([rubric == name for _, rubric in pairs]))
            for name in names
        )
        print(f"{f'{name} 3-way macro-F1':45} {macro:.3f}")
        most = Counter(people for people, _ in pairs).most_common(1)[0]
        line(f"{name} 3-way, always {most[0]}", most[1], len(pairs))


def line(name: str, hits: int, n: int) -> None:
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    print(f"{name:45} {hits / n:.3f}  [{low:.3f}, {high:.3f}]  n = {n}")


if __name__ == "__main__":
    main()

"""The shipped rubrics' agreement with people, and their speed, on public data outside this project.

    CAI_EVAL_DATA=/path/to/data python benchmarks/rubric_agreement.py

Data, in `refusal_style`: `xstest/completions_*.csv` (XSTest, arXiv:2308.01263: 3 x 450 replies,
human labels), `gptfuzz/train.csv` (GPTFuzz, arXiv:2309.10253: replies to jailbreaks, human labels),
and `rbr_gold/train.jsonl` (rule-based rewards, arXiv:2411.01111: 351 replies, 22 propositions
each). Shares have 95 % Wilson intervals, F1 a seeded bootstrap over replies. Two-way: full
compliance against any refusal.

The patterns were written with XSTest and GPTFuzz in view, `declines` and `judges` with some of
rbr_gold too: for them that is no held-out test. `fitted` is `refusal_style_fitted` with its text
model fitted anew on the other models' replies and on GPTFuzz (for XSTest), or on XSTest and the
other four fifths of GPTFuzz's questions (for GPTFuzz): it is tested on replies that it was not
fitted on.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from cai.constitution.load import load_constitution
from cai.constitution.schema import Rubric
from cai.rubric import CompiledRubric, compile_rubric, grade
from cai.rubric.fit_weights import FitConfig, Ranked, fit_weights, pair_errors, split_prompts
from cai.rubric.propositions import normalize_reply, unquoted_text
from cai.rubric.text_classifier import Labelled, TextFit, fit_text, ngrams_of

ROOT = Path(__file__).parents[1]
Array = NDArray[np.bool_]
DegreePair = tuple[str, str]
"""(degree by people, degree by the rubric)"""
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
    root = os.environ.get("CAI_EVAL_DATA")
    if not root:
        sys.exit(
            "rubric_agreement: set CAI_EVAL_DATA to the folder with refusal_style/xstest "
            "and refusal_style/gptfuzz"
        )
    data = Path(root) / "refusal_style"
    files = sorted((data / "xstest").glob("completions_*.csv"))
    gptfuzz_file = data / "gptfuzz" / "train.csv"
    if not files or not gptfuzz_file.exists():
        sys.exit(f"rubric_agreement: {data} lacks xstest/completions_*.csv or gptfuzz/train.csv")
    xstest = {path.stem.removeprefix("completions_"): rows(path) for path in files}
    gptfuzz = rows(gptfuzz_file)
    gold_text = (data / "rbr_gold" / "train.jsonl").read_text(encoding="utf-8")
    gold = [json.loads(text) for text in gold_text.splitlines()]

    compiled = compile_rubric(shipped("refusal_style"))
    show_agreement(compiled, xstest, gptfuzz)
    show_fitted_xstest(xstest, gptfuzz)
    show_fitted_gptfuzz(xstest, gptfuzz)
    show_propositions(compiled, gold)
    show_weight_fit()
    show_adversarial(compiled)
    replies = [row["completion"] for model_rows in xstest.values() for row in model_rows]
    replies += [row["Response"] for row in gptfuzz]
    show_speed("patterns", compiled, replies)
    fitted = compile_rubric(shipped("refusal_style_fitted"))
    show_speed("patterns + text model", fitted, replies)


Row = dict[str, str]


def rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def shipped(name: str) -> Rubric:
    rubric = load_constitution(ROOT / "constitutions" / f"{name}.yaml").rubric
    if rubric is None:
        sys.exit(f"rubric_agreement: constitutions/{name}.yaml has no rubric")
    return rubric


def degree(compiled: CompiledRubric, prompt: str, response: str) -> str:
    return str(grade(compiled, prompt=prompt, response=response, kind=None).degree)


def xstest_pair(compiled: CompiledRubric, row: Row) -> DegreePair:
    by_rubric = degree(compiled, row["prompt"], row["completion"])
    return row["final_label"][2:], by_rubric


def gptfuzz_pair(compiled: CompiledRubric, row: Row) -> DegreePair:
    by_people = "full_compliance" if row["label"] == "1" else "full_refusal"
    return by_people, degree(compiled, "", row["Response"])


def show_agreement(
    compiled: CompiledRubric, xstest: dict[str, list[Row]], gptfuzz: list[Row]
) -> None:
    all_pairs: list[DegreePair] = []
    for name, model_rows in xstest.items():
        pairs = [xstest_pair(compiled, row) for row in model_rows]
        show_degrees(f"xstest {name}", pairs)
        all_pairs += pairs
    show_degrees("xstest all", all_pairs)
    pairs = [gptfuzz_pair(compiled, row) for row in gptfuzz]
    show_degrees("gptfuzz", pairs, three_way=False)


def labelled_xstest(model_rows: list[Row]) -> list[Labelled]:
    return [
        labelled(row["prompt"], row["completion"], row["final_label"] == "1_full_compliance")
        for row in model_rows
    ]


def labelled_gptfuzz(gptfuzz: list[Row]) -> list[Labelled]:
    return [labelled(row["question"], row["Response"], row["label"] == "1", 0.1) for row in gptfuzz]


def labelled(prompt: str, reply: str, complied: bool, weight: float = 1.0) -> Labelled:
    return Labelled(prompt, ngrams_of(unquoted_text(reply)), complied, weight)


def refitted(training: list[Labelled]) -> CompiledRubric:
    """`refusal_style_fitted` with another text model."""
    rubric = shipped("refusal_style_fitted")
    model = fit_text(training, TextFit(replies=30), ())
    propositions = {
        id: proposition.model_copy(update={"fitted": model}) if proposition.fitted else proposition
        for id, proposition in rubric.propositions.items()
    }
    return compile_rubric(rubric.model_copy(update={"propositions": propositions}))


def show_fitted_xstest(xstest: dict[str, list[Row]], gptfuzz: list[Row]) -> None:
    """The cascade of text model and patterns, on a model whose replies it was not fitted on."""
    labels = {name: labelled_xstest(model_rows) for name, model_rows in xstest.items()}
    all_pairs: list[DegreePair] = []
    for name, model_rows in xstest.items():
        training = [row for other in labels if other != name for row in labels[other]]
        compiled = refitted(training + labelled_gptfuzz(gptfuzz))
        pairs = [xstest_pair(compiled, row) for row in model_rows]
        show_degrees(f"fitted: xstest {name}", pairs)
        all_pairs += pairs
    show_degrees("fitted: xstest all", all_pairs)


def show_fitted_gptfuzz(xstest: dict[str, list[Row]], gptfuzz: list[Row]) -> None:
    """The cascade of text model and patterns, on questions that it was not fitted on."""
    xstest_labels = [row for model_rows in xstest.values() for row in labelled_xstest(model_rows)]
    gptfuzz_labels = labelled_gptfuzz(gptfuzz)
    questions = sorted({row["question"] for row in gptfuzz})
    pairs: list[DegreePair] = []
    for fold in range(5):
        held_out = set(questions[fold::5])
        training = list(xstest_labels)
        for label, row in zip(gptfuzz_labels, gptfuzz, strict=True):
            if row["question"] not in held_out:
                training.append(replace(label, weight=1.0))
        compiled = refitted(training)
        pairs += [gptfuzz_pair(compiled, row) for row in gptfuzz if row["question"] in held_out]
    show_degrees("fitted: gptfuzz, 5 folds by question", pairs, three_way=False)


def show_propositions(compiled: CompiledRubric, gold: list[dict[str, Any]]) -> None:
    """F1 of our proposition against the one of theirs that means about the same."""
    tests = dict(compiled.tests)
    replies = [
        normalize_reply(
            row["prompt"][-1]["content"], row["completion"][0]["content"], compiled.prefilter
        )
        for row in gold
    ]
    for theirs, ours in LIKE.items():
        people = np.array([bool(row["propositions"][theirs]) for row in gold])
        rubric = np.array([tests[ours](reply) > 0.5 for reply in replies])
        stream = np.random.default_rng(0)
        draws = [stream.integers(len(gold), size=len(gold)) for _ in range(2000)]
        low, high = np.quantile([f1(people[i], rubric[i]) for i in draws], [0.025, 0.975])
        name = f"rbr_gold {theirs} ({ours}) F1"
        interval = f"[{low:.3f}, {high:.3f}]"
        print(
            f"{name:45} {f1(people, rubric):.3f}  {interval}  "
            f"n = {len(gold)}, {people.sum()} positive"
        )


def show_weight_fit(prompts: int = 1250, replies: int = 4, features: int = 12) -> None:
    """Time of a fit, and the share of pairs that are not in the order of planted weights."""
    stream = np.random.default_rng(0)
    names = [f"feature_{index}" for index in range(features)]
    planted = dict(zip(names, stream.normal(size=features), strict=True))
    rows = []
    for prompt in range(prompts):
        for _ in range(replies):
            values = dict(zip(names, stream.random(features) < 0.4, strict=True))
            score = sum(planted[name] * values[name] for name in planted)
            rows.append(Ranked(str(prompt), -score, values))
    training, held_out = split_prompts(rows, 0.2, 0)
    config = FitConfig(keep_signs=False, penalty=0.0)
    start = time.perf_counter()
    fitted = fit_weights(training, dict.fromkeys(planted, 0.0), config)
    seconds = time.perf_counter() - start
    wrong_pairs = pair_errors(held_out, fitted.weights, fitted.scale, "rubric")
    wrong = statistics.fmean(error for _, error in wrong_pairs)
    print(
        f"weights of {features} features, {len(training)} of {len(rows)} replies: "
        f"{seconds:.1f} s, held-out pairs wrong {wrong:.4f}"
    )


def show_speed(name: str, compiled: CompiledRubric, replies: list[str]) -> None:
    """Replies a second on one core, grading alone.

    Replies are cut to 200 words, which brings their median near a hundred.
    """
    split_replies = [text.split() for text in replies]
    texts = [" ".join(words[:200]) for words in split_replies if len(words) >= 20]
    median = statistics.median(len(text.split()) for text in texts)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for text in texts:
            degree(compiled, "", text)
        best = max(best, len(texts) / (time.perf_counter() - start))
    print(
        f"{name}: {best:,.0f} replies/s, one process, {len(texts)} replies "
        f"with a median of {median:.0f} words, best of 3"
    )


def show_adversarial(compiled: CompiledRubric) -> None:
    """Grading time of repetitive texts: linear, so 1 MB takes about ten times as long as 0.1 MB."""
    for piece in PIECES:
        seconds = []
        for size in (100_000, 1_000_000):
            start = time.perf_counter()
            degree(compiled, "", piece * (size // len(piece)))
            seconds.append(time.perf_counter() - start)
        name = f"1 MB of {piece!r}"
        ratio = seconds[1] / seconds[0]
        print(f"{name:45} {seconds[1]:.2f} s, {ratio:.1f} times as long as 0.1 MB")


def show_degrees(name: str, pairs: list[DegreePair], *, three_way: bool = True) -> None:
    """Agreement on full compliance, and on the three degrees."""
    complied = [
        (people == "full_compliance", rubric == "full_compliance") for people, rubric in pairs
    ]
    show_share(f"{name} 2-way", sum(people == rubric for people, rubric in complied), len(pairs))
    for kind, label in ((False, "refusals found"), (True, "compliance found")):
        graded = [rubric for people, rubric in complied if people is kind]
        show_share(f"{name}   {label}", sum(rubric is kind for rubric in graded), len(graded))
    if not three_way:
        return
    show_share(f"{name} 3-way", sum(people == rubric for people, rubric in pairs), len(pairs))
    people_degrees = np.array([people for people, _ in pairs])
    rubric_degrees = np.array([rubric for _, rubric in pairs])
    names = sorted(set(people_degrees.tolist()))
    macro = statistics.fmean(f1(people_degrees == name, rubric_degrees == name) for name in names)
    print(f"{f'{name} 3-way macro-F1':45} {macro:.3f}")
    most_common, count = Counter(people for people, _ in pairs).most_common(1)[0]
    show_share(f"{name} 3-way, always {most_common}", count, len(pairs))


def show_share(name: str, hits: int, n: int) -> None:
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    print(f"{name:45} {hits / n:.3f}  [{low:.3f}, {high:.3f}]  n = {n}")


def f1(people: Array, rubric: Array) -> float:
    both = int((people & rubric).sum())
    return 2 * both / max(1, int(people.sum()) + int(rubric.sum()))


if __name__ == "__main__":
    main()

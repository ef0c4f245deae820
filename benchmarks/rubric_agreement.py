"""The shipped rubrics' propositions against people's, and their cost on adversarial texts.

    CAI_EVAL_DATA=/path/to/data python benchmarks/rubric_agreement.py

How far the graders of refusal agree with people on models and sets that they know nothing of is in
refusal_protocol.py. Here: the propositions of rule-based rewards (arXiv:2411.01111,
`refusal_style/rbr_gold/train.jsonl`, 351 replies) as a text model decides them, in five folds by
prompt with settings chosen inside; F1 has a seeded bootstrap over replies. Beside it, our nearest
patterns: `declines` and `judges` were written with some of these replies in view, so theirs is no
held-out test. Speed is in grade_speed.py.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import gold_propositions
import numpy as np
import refusal_sets
from numpy.typing import NDArray

from cai.constitution.load import load_constitution
from cai.constitution.schema import Rubric
from cai.rubric import CompiledRubric, compile_rubric, grade
from cai.rubric.fit_weights import FitConfig, Ranked, fit_weights, pair_errors, split_prompts
from cai.rubric.held_out_groups import leave_out
from cai.rubric.propositions import Ungraded, unquoted_text
from cai.rubric.text_classifier import Labelled, TextFit, ngrams_of

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
    data = refusal_sets.data_folder("rubric_agreement")
    compiled = compile_rubric(shipped("refusal_style"))
    chosen = sys.argv[1:] or ["propositions", "weights", "adversarial"]
    if "propositions" in chosen:
        show_propositions(compiled, refusal_sets.gold_rows(data))
    if "weights" in chosen:
        show_weight_fit()
    if "adversarial" in chosen:
        show_adversarial(compiled)


def shipped(name: str) -> Rubric:
    rubric = load_constitution(ROOT / "constitutions" / f"{name}.yaml").rubric
    if rubric is None:
        sys.exit(f"rubric_agreement: constitutions/{name}.yaml has no rubric")
    return rubric


def degree(compiled: CompiledRubric, prompt: str, response: str) -> str:
    return str(grade(compiled, prompt=prompt, response=response, kind=None).degree)


def show_propositions(compiled: CompiledRubric, gold: list[dict[str, Any]]) -> None:
    """F1 of a text model in folds, and of the nearest proposition that patterns decide."""
    tests = dict(compiled.tests)
    texts = [row["completion"][0]["content"] for row in gold]
    replies = [
        compiled.normalize(Ungraded(row["prompt"][-1]["content"], text))
        for row, text in zip(gold, texts, strict=True)
    ]
    ngrams = [ngrams_of(unquoted_text(text)) for text in texts]
    values = gold_propositions.pattern_values(compiled, replies)
    for theirs, ours in LIKE.items():
        rows = [
            Labelled(json.dumps(row["prompt"]), words, bool(row["propositions"][theirs]))
            for row, words in zip(gold, ngrams, strict=True)
        ]
        tested = leave_out(rows, TextFit(replies=3, runs=10_000))
        pairs = [pair for one in tested for pair in zip(one.fold.test, one.verdicts, strict=True)]
        people = np.array([row.holds for row, _ in pairs])
        show_f1(f"{theirs} (text model)", people, np.array([verdict for _, verdict in pairs]))
        people = np.array([row.holds for row in rows])
        patterns = np.array([tests[ours](reply) > 0.5 for reply in replies])
        show_f1(f"{theirs} (patterns: {ours})", people, patterns)
        both = gold_propositions.verdicts(rows, values)
        show_f1(f"{theirs} (words and all patterns)", people, both)


def show_f1(name: str, people: Array, verdicts: Array) -> None:
    stream = np.random.default_rng(0)
    draws = [stream.integers(len(people), size=len(people)) for _ in range(2000)]
    low, high = np.quantile([f1(people[i], verdicts[i]) for i in draws], [0.025, 0.975])
    print(
        f"rbr_gold {name:50} F1 {f1(people, verdicts):.3f}  [{low:.3f}, {high:.3f}]  "
        f"n = {len(people)}, {people.sum()} positive"
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


def f1(people: Array, rubric: Array) -> float:
    both = int((people & rubric).sum())
    return 2 * both / max(1, int(people.sum()) + int(rubric.sum()))


if __name__ == "__main__":
    main()

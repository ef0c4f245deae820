"""How well graders of refusals do on models and sets that they know nothing of.

    CAI_EVAL_DATA=/path/to/data python benchmarks/refusal_protocol.py

Needs scikit-learn, for the baseline alone (pip install scikit-learn). One of XSTest's three models
is left out, or one of three sets, or one writer of the replies in `replies/`. Graders, fitted anew
in each fold:

- `sentences` is that of `refusal_style_fitted` (reply_model.py);
- `words` is a text model of the replies' n-grams, without the replies in `replies/`;
- `tfidf` is words and characters with scikit-learn's logistic regression, without any replies of
  our own.

Settings and thresholds of the last two are chosen on what is left, by leaving out its models or
sets in turn; those of the first are fixed. Patterns are not among the graders: they were written
with these sets in view. Prompts are the same for all models of XSTest, so this is a test on new
models, not on new prompts.

A grader has two parts: does a reply comply, and if not, does it refuse in part. rbr_gold has no
degrees of refusal, and is in the tests between sets alone.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import refusal_sets
import tfidf_baseline
from refusal_sets import Reply
from reply_model import (
    PARTIAL_ABOVE,
    TEXT,
    WEIGHTS,
    Degrees,
    Written,
    as_reply,
    labelled,
    summaries_of,
)
from tagged_replies import tagged_replies

from cai.rubric.held_out_groups import f1_by_label, fit_chosen, macro_f1
from cai.rubric.propositions import unquoted_text
from cai.rubric.text_classifier import ngrams_of, scorer
from cai.statistics.estimates import estimate
from cai.statistics.paired import paired_difference

Grader = Callable[[Sequence[Reply], Sequence[Reply], frozenset[str]], list[str]]
"""(training replies, test replies, sources to leave out in turn) -> degrees of the test replies."""


def degrees_of(
    test: Sequence[Reply],
    complies: Callable[[Reply], bool],
    in_part: Callable[[Reply], bool] | None,
) -> list[str]:
    return [
        "full_compliance"
        if complies(reply)
        else "partial_refusal"
        if in_part is not None and in_part(reply)
        else "full_refusal"
        for reply in test
    ]


def words(train: Sequence[Reply], test: Sequence[Reply], groups: frozenset[str]) -> list[str]:
    """The text models alone."""
    parts: list[Callable[[Reply], bool] | None] = []
    for of_refusals in (False, True):
        rows = labelled(train, groups, of_refusals=of_refusals)
        if len({row.holds for row in rows}) < 2:
            parts.append(None)
            continue
        model, above = fit_chosen(rows, TEXT)
        score = scorer(model)
        parts.append(
            lambda reply, score=score, above=above: (
                score(ngrams_of(unquoted_text(reply.text))) > above
            )
        )
    complies, in_part = parts
    if complies is None:
        raise TypeError("all replies comply, or none")
    return degrees_of(test, complies, in_part)


def sentences(replies: Sequence[Reply], written: Written) -> Grader:
    """The grader that ships: text models and the tags of sentences."""
    degrees = Degrees(list(replies), summaries_of(written.model, replies), written)
    index_of = {id(reply): index for index, reply in enumerate(replies)}

    def grade(train: Sequence[Reply], test: Sequence[Reply], groups: frozenset[str]) -> list[str]:
        seen = [index_of[id(reply)] for reply in train]
        new = [index_of[id(reply)] for reply in test]
        verdicts = []
        for of_refusals in (False, True):
            verdicts.append(verdicts_of(degrees, seen, new, of_refusals=of_refusals))
        return [
            "full_compliance" if yes else "partial_refusal" if part else "full_refusal"
            for yes, part in zip(*verdicts, strict=True)
        ]

    return grade


def verdicts_of(
    degrees: Degrees, train: Sequence[int], test: Sequence[int], *, of_refusals: bool
) -> list[bool]:
    above = PARTIAL_ABOVE if of_refusals else 0.5
    log_odds = degrees.log_odds(degrees.fit(train, of_refusals=of_refusals), test)
    return [bool(score > np.log(above / (1 - above))) for score in log_odds]


def baseline(replies: Sequence[Reply]) -> Grader:
    """TF-IDF and logistic regression, on replies of `replies`."""
    index_of = {id(reply): index for index, reply in enumerate(replies)}
    texts = tfidf_baseline.Texts([unquoted_text(reply.text) for reply in replies])
    complies = np.array([reply.complies for reply in replies])
    weights = np.array([WEIGHTS.get(reply.source, 1.0) for reply in replies])
    in_part = np.array([reply.label == "partial_refusal" for reply in replies])
    has_degree = np.array([reply.label.endswith("l_refusal") for reply in replies])

    def grade(train: Sequence[Reply], test: Sequence[Reply], groups: frozenset[str]) -> list[str]:
        seen = np.array([index_of[id(reply)] for reply in train if reply.source != "written"])
        new = np.array([index_of[id(reply)] for reply in test])
        group = np.array([reply.source if reply.source in groups else "" for reply in replies])
        first = tfidf_baseline.Task(texts, complies, weights, group)
        complied = tfidf_baseline.verdicts(first, seen, new)
        refusals = seen[has_degree[seen]]
        partial = [False] * len(new)
        if in_part[refusals].any():
            second = tfidf_baseline.Task(texts, in_part, np.ones(len(replies)), group)
            partial = tfidf_baseline.verdicts(second, refusals, new)
        return [
            "full_compliance" if yes else "partial_refusal" if part else "full_refusal"
            for yes, part in zip(complied, partial, strict=True)
        ]

    return grade


@dataclass(frozen=True, slots=True)
class Sets:
    xstest: list[Reply]
    gptfuzz: list[Reply]
    rbr_gold: list[Reply]
    written: list[Reply]


def main() -> None:
    data = refusal_sets.data_folder("refusal_protocol")
    if importlib.util.find_spec("sklearn") is None:
        sys.exit("refusal_protocol: the baseline is scikit-learn's: pip install scikit-learn")
    every_gptfuzz = refusal_sets.gptfuzz(data)
    sets = Sets(
        refusal_sets.xstest(data),
        refusal_sets.some_of_each_question(every_gptfuzz),
        refusal_sets.rbr_gold(data),
        refusal_sets.written(),
    )
    replies = [*sets.xstest, *sets.gptfuzz, *sets.rbr_gold, *sets.written]
    written = Written.load()
    graders: dict[str, Grader] = {
        "sentences": sentences(replies, written),
        "words": words,
        "tfidf": baseline(replies),
    }
    chosen = sys.argv[1:] or ["models", "curve", "sets", "styles"]
    if "models" in chosen:
        leave_models_out(graders, sets)
    if "curve" in chosen:
        learning_curve(sets, replies, written)
    if "sets" in chosen:
        leave_sets_out(graders, sets, written)
    if "styles" in chosen:
        leave_styles_out(sets)


def leave_models_out(graders: dict[str, Grader], sets: Sets) -> None:
    models = sorted({reply.source for reply in sets.xstest})
    by_grader: dict[str, list[tuple[Reply, str]]] = {name: [] for name in graders}
    for model in models:
        train = [reply for reply in sets.xstest if reply.source != model]
        train += [*sets.gptfuzz, *sets.written]
        test = [reply for reply in sets.xstest if reply.source == model]
        for name, grader in graders.items():
            degrees = grader(train, test, frozenset(models) - {model})
            graded = list(zip(test, degrees, strict=True))
            show(f"{model} left out: {name}", graded)
            by_grader[name] += graded
    for name, graded in by_grader.items():
        show(f"all models left out: {name}", graded)
    show_differences(by_grader)


def leave_sets_out(graders: dict[str, Grader], sets: Sets, written: Written) -> None:
    replies = [
        *(without_degree(reply, "xstest") for reply in sets.xstest),
        *sets.gptfuzz,
        *sets.rbr_gold,
        *(without_degree(reply, "written") for reply in sets.written),
    ]
    graders = graders | {"sentences": sentences(replies, written), "tfidf": baseline(replies)}
    names = frozenset(("xstest", "gptfuzz", "rbr_gold"))
    for left_out in sorted(names):
        train = [reply for reply in replies if reply.source != left_out]
        test = [reply for reply in replies if reply.source == left_out]
        by_grader = {}
        for name, grader in graders.items():
            degrees = grader(train, test, names - {left_out})
            by_grader[name] = list(zip(test, degrees, strict=True))
            show(f"{left_out} left out: {name}", by_grader[name], three_way=False)
        show_differences(by_grader, three_way=False)


def leave_styles_out(sets: Sets) -> None:
    """Replies that language models wrote for this project, in many styles: one writer left out.

    The other two graders learn from no such replies.
    """
    people = [*sets.xstest, *sets.gptfuzz, *sets.written]
    by_grader: dict[str, list[tuple[Reply, str]]] = {"sentences": [], "words": [], "tfidf": []}
    for file in sorted({reply.file for reply in tagged_replies()}):
        test = [as_reply(reply) for reply in tagged_replies() if reply.file == file]
        replies = [*people, *test]
        graders = {
            "sentences": sentences(replies, Written.load(without=file)),
            "words": words,
            "tfidf": baseline(replies),
        }
        for name, grader in graders.items():
            degrees = grader(people, test, frozenset(reply.source for reply in sets.xstest))
            by_grader[name] += zip(test, degrees, strict=True)
    for name, graded in by_grader.items():
        show(f"written replies, their writer left out: {name}", graded)
    show_differences(by_grader)


def without_degree(reply: Reply, source: str) -> Reply:
    """One that complies or refuses, and no more is known: the sets share no more."""
    label = reply.label if reply.complies else "refusal"
    return Reply(source, reply.prompt, reply.text, label, reply.request)


def learning_curve(sets: Sets, replies: Sequence[Reply], written: Written) -> None:
    """By the number of XSTest's models that were learnt from."""
    models = sorted({reply.source for reply in sets.xstest})
    degrees = Degrees(list(replies), summaries_of(written.model, replies), written)
    indices = {
        model: [index for index, reply in enumerate(replies) if reply.source == model]
        for model in [*models, "gptfuzz", "written"]
    }
    for count in range(len(models)):
        graded: list[tuple[Reply, str]] = []
        for first, model in enumerate(models):
            seen = [models[(first + step) % len(models)] for step in range(1, count + 1)]
            train = [index for name in [*seen, "gptfuzz", "written"] for index in indices[name]]
            verdicts = []
            for of_refusals in (False, True):
                verdicts.append(
                    verdicts_of(degrees, train, indices[model], of_refusals=of_refusals)
                )
            for index, yes, part in zip(indices[model], *verdicts, strict=True):
                refusal = "partial_refusal" if part else "full_refusal"
                graded.append((replies[index], "full_compliance" if yes else refusal))
        show(f"sentences, {count} of the other models seen", graded)


def show(name: str, graded: Sequence[tuple[Reply, str]], *, three_way: bool = True) -> None:
    prompts = [reply.prompt for reply, _ in graded]
    right = [float(reply.complies == (degree == "full_compliance")) for reply, degree in graded]
    line = f"{name:50} n={len(graded)} 2-way {interval(right, prompts)}"
    if three_way:
        exact = [float(reply.label == degree) for reply, degree in graded]
        truth, degrees = [reply.label for reply, _ in graded], [degree for _, degree in graded]
        by_label = f1_by_label(truth, degrees)
        line += f"  3-way {interval(exact, prompts)}  macro-F1 {macro_f1(truth, degrees):.3f}"
        line += f" (partial {by_label['partial_refusal']:.3f})"
    print(line, flush=True)


def interval(values: Sequence[float], prompts: Sequence[str]) -> str:
    score = estimate("right", "grader", list(values), list(prompts), proportion=True)
    return f"{score.mean:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}]"


def show_differences(
    by_grader: dict[str, list[tuple[Reply, str]]], *, three_way: bool = True
) -> None:
    """`sentences` minus each other grader on the same replies, in clusters of one prompt."""
    ours = by_grader["sentences"]
    prompts = [reply.prompt for reply, _ in ours]
    ways = {"2-way": lambda reply, degree: reply.complies == (degree == "full_compliance")}
    if three_way:
        ways["3-way"] = lambda reply, degree: reply.label == degree
    for name, theirs in by_grader.items():
        for way, is_right in ways.items() if name != "sentences" else ():
            a, b = ([float(is_right(*pair)) for pair in side] for side in (ours, theirs))
            gap = paired_difference(a, b, prompts)
            print(
                f"sentences - {name} {way}: {gap.mean:+.3f} [{gap.ci_low:+.3f}, {gap.ci_high:+.3f}]"
            )
        if name != "sentences" and three_way:
            print(f"sentences - {name} macro-F1: {macro_f1_difference(ours, theirs)}")


def macro_f1_difference(
    ours: Sequence[tuple[Reply, str]], theirs: Sequence[tuple[Reply, str]], draws: int = 2000
) -> str:
    """With a percentile interval over prompts drawn with replacement."""
    labels = sorted({reply.label for reply, _ in ours})
    number_of = {prompt: index for index, prompt in enumerate({r.prompt: 0 for r, _ in ours})}
    tables = np.zeros((2, len(number_of), len(labels), len(labels)))
    for side, graded in enumerate((ours, theirs)):
        for reply, degree in graded:
            cell = labels.index(reply.label), labels.index(degree)
            tables[(side, number_of[reply.prompt], *cell)] += 1
    stream = np.random.default_rng(0)
    times = stream.multinomial(len(number_of), np.full(len(number_of), 1 / len(number_of)), draws)

    def gap(counts: np.ndarray) -> np.ndarray:
        """(draws,) of (draws, prompts): how often each prompt is in a draw."""
        sums = np.einsum("dp,spij->dsij", counts, tables)
        both = np.einsum("dsii->dsi", sums)
        f1 = 2 * both / np.maximum(sums.sum(2) + sums.sum(3), 1)
        return np.asarray(f1.mean(2)[:, 0] - f1.mean(2)[:, 1])

    (mean,) = gap(np.ones((1, len(number_of))))
    low, high = np.quantile(gap(times), [0.025, 0.975])
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main()

"""The card of a fitted grader: data, settings, and results on groups that were left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cai.constitution.schema import TextModel
from cai.records import Score
from cai.report.cards import plain_cell
from cai.report.formats import estimate_text
from cai.rubric.held_out_groups import TestedFold, f1_by_label
from cai.statistics.estimates import estimate


def grader_card(name: str, model: TextModel, above: float, tested: Sequence[TestedFold]) -> str:
    """Markdown."""
    return "\n".join(_lines(name, model, above, tested)) + "\n"


def right_verdicts(tested: Sequence[TestedFold]) -> Score:
    """The share of right verdicts, with an interval over prompts."""
    values, prompts = [], []
    for one in tested:
        for row, verdict in zip(one.fold.test, one.verdicts, strict=True):
            values.append(float(row.holds == verdict))
            prompts.append(row.prompt)
    return estimate("fit-grader.right", "fitted", values, prompts, proportion=True)


def _lines(
    name: str, model: TextModel, above: float, tested: Sequence[TestedFold]
) -> Iterator[str]:
    yield f"# {plain_cell(name)}"
    yield ""
    yield "A text model that decides a yes/no proposition about a reply by its words."
    yield f"It has {len(model.weights):,} n-grams, and the proposition holds above {above}."
    yield ""
    yield "## Data"
    yield ""
    yield "| file | rows | licence |"
    yield "|---|---:|---|"
    for data in model.trained_on:
        yield f"| {plain_cell(data.name)} | {data.rows:,} | {plain_cell(data.licence)} |"
    yield ""
    yield "## Results on what was left out"
    yield ""
    yield (
        "Each line is of a model that was fitted without the group, and whose settings were chosen "
        "without it. The model of this card was fitted on all rows."
    )
    yield ""
    yield "| left out | replies | of them yes | right | F1 of yes | F1 of no | strength | above |"
    yield "|---|---:|---:|---|---:|---:|---:|---:|"
    for one in tested:
        yield _row(one.fold.name, [one], f"{one.choice.config.strength:g}", f"{one.choice.above}")
    if tested:
        yield _row("all", tested, "", "")


def _row(name: str, tested: Sequence[TestedFold], strength: str, above: str) -> str:
    truth: list[object] = [row.holds for one in tested for row in one.fold.test]
    verdicts: list[object] = [verdict for one in tested for verdict in one.verdicts]
    f1 = f1_by_label(truth, verdicts)
    texts = [f"{f1[label]:.3f}" if label in f1 else "" for label in (True, False)]
    right = estimate_text(right_verdicts(tested), ".1%")
    cells = [plain_cell(name), f"{len(truth):,}", f"{sum(map(bool, truth)):,}", right, *texts]
    return "| " + " | ".join([*cells, strength, above]) + " |"

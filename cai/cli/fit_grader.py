"""The command that fits a text model for a proposition, and tests it on groups left out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.jsonl import read_replies
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.constitution.schema import TextModel, TrainedOn
    from cai.rubric.held_out_groups import TestedFold
    from cai.rubric.text_classifier import Labelled, TextFit

app = typer.Typer()


@app.command(
    epilog="Example: cai fit-grader --input labelled.jsonl --licence MIT --output model.json"
)
def fit_grader(
    inputs: Annotated[
        list[Path],
        typer.Option(
            "--input", help="JSONL: {prompt, response, holds: true or false}; repeatable."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="JSON for `fitted:` of a proposition.")],
    licence: Annotated[
        list[str], typer.Option(help="Of each input, in their order: it goes into the output.")
    ],
    card: Annotated[
        Path | None, typer.Option(help="Markdown: data, settings and held-out results.")
    ] = None,
    runs: Annotated[
        int, typer.Option(min=10, help="Unigrams and bigrams that the model may use.")
    ] = 3000,
    replies: Annotated[
        int, typer.Option(min=1, help="Replies in which a unigram or bigram must occur.")
    ] = 20,
    seed: int = 0,
) -> None:
    """Fit a small text model that decides a proposition by the words of a reply.

    Rows may carry a `weight`, and a `group`: the model, or the set, that the reply is from. Each
    group is left out once for a test, and settings are chosen without it. With fewer than two
    groups, parts of the prompts are left out. The model of the output is fitted on all rows.
    """
    from cai.cli.output_files import replaced_output, write_output
    from cai.report.grader_card import grader_card
    from cai.rubric.text_classifier import TextFit

    quiet()
    if len(licence) != len(inputs) or not all(terms.strip() for terms in licence):
        raise UsageError(
            f"--licence: {len(inputs)} inputs and {len(licence)} licences: "
            "name one for each input, in their order"
        )
    if card is not None and card.resolve() == output.resolve():
        raise UsageError(f"--card {card}: this is --output too: name another file")
    with replaced_output(output, "fit-grader", *inputs):
        rows, trained_on = _labelled_replies(list(zip(inputs, licence, strict=True)))
        model, above, tested = _fitted_model(
            rows, trained_on, TextFit(runs=runs, replies=replies), seed
        )
        _print_folds(tested, above)
        text = json.dumps(model.model_dump(mode="json"), ensure_ascii=False, indent=0)
        write_output(output, "fit-grader", text + "\n")
    if card is not None:
        with replaced_output(card, "fit-grader", *inputs):
            write_output(card, "fit-grader", grader_card(output.stem, model, above, tested))


def _fitted_model(
    rows: Sequence[Labelled], trained_on: Sequence[TrainedOn], config: TextFit, seed: int
) -> tuple[TextModel, float, list[TestedFold]]:
    """(model of all rows, its threshold, tests of models that did not see their group)."""
    from cai.rubric.held_out_groups import fit_chosen, leave_out

    tested = leave_out(rows, config, seed)
    model, above = fit_chosen(rows, config, seed)
    return model.model_copy(update={"trained_on": tuple(trained_on)}), above, tested


def _labelled_replies(
    sources: Sequence[tuple[Path, str]],
) -> tuple[list[Labelled], list[TrainedOn]]:
    """The rows of all files, and what the model is fitted on.

    Args:
        sources: each file with its licence.
    """
    from cai.constitution.schema import TrainedOn

    rows: list[Labelled] = []
    trained_on = []
    for path, terms in sources:
        labelled = _labelled_rows(path)
        rows += labelled
        trained_on.append(TrainedOn(name=path.stem, rows=len(labelled), licence=terms))
    return rows, trained_on


def _labelled_rows(path: Path) -> list[Labelled]:
    from cai.data.filters import prompt_key
    from cai.rubric.propositions import unquoted_text
    from cai.rubric.text_classifier import Labelled, ngrams_of

    rows = []
    for line in read_replies(path, parsed=("holds", "weight")):
        holds, weight = line.data.get("holds"), line.data.get("weight", 1.0)
        valid_weight = isinstance(weight, int | float) and 0 < weight < math.inf
        if not isinstance(holds, bool) or not valid_weight:
            raise StoreError(
                f"{line.location}: a line needs `holds` (true or false), "
                "and a `weight` above 0 if any"
            )
        group = line.data.get("group") or ""
        if not isinstance(group, str):
            raise StoreError(f"{line.location}: `group` is the name of a model or set, as text")
        words = ngrams_of(unquoted_text(line.replies[0]))
        row = Labelled(prompt_key(line.prompt), words, holds, float(weight))
        rows.append(replace(row, group=group))
    if not rows:
        raise StoreError(f"{path}: no row in it")
    return rows


def _print_folds(tested: Sequence[TestedFold], above: float) -> None:
    from cai.report.grader_card import right_verdicts

    for fold in tested:
        score = estimate_text(right_verdicts([fold]), ".1%")
        print(f"{fold.fold.name} left out: {score} right")
    if tested:
        print(f"all: {estimate_text(right_verdicts(tested), '.1%')} right")
    print(f"above: {above}, for the proposition")

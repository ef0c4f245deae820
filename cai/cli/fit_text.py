"""The command that fits a text model for a proposition."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.jsonl import read_replies
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.constitution.schema import TextModel
    from cai.rubric.text_classifier import Labelled

app = typer.Typer()


@app.command(
    epilog="Example: cai fit-text --input labelled.jsonl --licence MIT --output model.json"
)
def fit_text(
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
    runs: Annotated[
        int, typer.Option(min=10, help="Unigrams and bigrams that the model may use.")
    ] = 3000,
    replies: Annotated[
        int, typer.Option(min=1, help="Replies in which a unigram or bigram must occur.")
    ] = 20,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the prompts held out for a first test.")
    ] = 0.2,
    seed: int = 0,
) -> None:
    """Fit a small text model that decides a proposition by the words of a reply.

    Rows may carry a `weight`.
    """
    from cai import store
    from cai.constitution.schema import TrainedOn
    from cai.rubric.text_classifier import TextFit, fit_text, split_by_prompt

    quiet()
    if len(licence) != len(inputs) or not all(terms.strip() for terms in licence):
        raise UsageError(
            f"--licence: {len(inputs)} inputs and {len(licence)} licences: "
            "name one for each input, in their order"
        )
    config = TextFit(runs=runs, replies=replies)
    rows: list[Labelled] = []
    trained_on = []
    for path, terms in zip(inputs, licence, strict=True):
        labelled = _labelled_replies(path)
        rows += labelled
        trained_on.append(TrainedOn(name=path.stem, rows=len(labelled), licence=terms))
    train, held_out_rows = split_by_prompt(rows, held_out, seed)
    if held_out_rows:
        _print_accuracy(output.stem, fit_text(train, config, trained_on), held_out_rows)
    model = fit_text(rows, config, trained_on).model_dump(mode="json")
    store.atomic_write(output, json.dumps(model, ensure_ascii=False, indent=0) + "\n")


def _labelled_replies(path: Path) -> list[Labelled]:
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
        words = ngrams_of(unquoted_text(line.replies[0]))
        rows.append(Labelled(prompt_key(line.prompt), words, holds, float(weight)))
    if not rows:
        raise StoreError(f"{path}: no row in it")
    return rows


def _print_accuracy(name: str, model: TextModel, rows: Sequence[Labelled]) -> None:
    from cai.evals.stats import estimate
    from cai.rubric.text_classifier import probability

    correct = [float((probability(model, row.ngrams) > 0.5) == row.holds) for row in rows]
    prompts = [row.prompt for row in rows]
    score = estimate("fit-text.right", name, correct, prompts, proportion=True)
    print(f"held-out prompts: {estimate_text(score, '.1%')} right")

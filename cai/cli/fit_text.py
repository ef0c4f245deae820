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
    from cai.rubric.text_classifier import Labelled, TextFit

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
    from cai.cli.output_files import replaced_output, write_output
    from cai.rubric.text_classifier import TextFit

    quiet()
    if len(licence) != len(inputs) or not all(terms.strip() for terms in licence):
        raise UsageError(
            f"--licence: {len(inputs)} inputs and {len(licence)} licences: "
            "name one for each input, in their order"
        )
    with replaced_output(output, "fit-text", *inputs):
        model = _fitted_model(
            list(zip(inputs, licence, strict=True)),
            TextFit(runs=runs, replies=replies),
            output.stem,
            held_out,
            seed,
        )
        text = json.dumps(model.model_dump(mode="json"), ensure_ascii=False, indent=0)
        write_output(output, "fit-text", text + "\n")


def _fitted_model(
    sources: Sequence[tuple[Path, str]], config: TextFit, name: str, held_out: float, seed: int
) -> TextModel:
    """The model fitted to all rows; one fitted to a part is tested on the others, and reported.

    Args:
        sources: each file with its licence.
        config: of the fit.
        name: of the model in the report.
        held_out: share of the prompts that the first model is tested on.
        seed: of the split.
    """
    from cai.constitution.schema import TrainedOn
    from cai.rubric.text_classifier import fit_text, split_by_prompt

    rows: list[Labelled] = []
    trained_on = []
    for path, terms in sources:
        labelled = _labelled_replies(path)
        rows += labelled
        trained_on.append(TrainedOn(name=path.stem, rows=len(labelled), licence=terms))
    train, held_out_rows = split_by_prompt(rows, held_out, seed)
    if held_out_rows:
        _print_accuracy(name, fit_text(train, config, trained_on), held_out_rows)
    return fit_text(rows, config, trained_on)


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
    from cai.rubric.text_classifier import probability
    from cai.statistics.estimates import estimate

    correct = [float((probability(model, row.ngrams) > 0.5) == row.holds) for row in rows]
    prompts = [row.prompt for row in rows]
    score = estimate("fit-text.right", name, correct, prompts, proportion=True)
    print(f"held-out prompts: {estimate_text(score, '.1%')} right")

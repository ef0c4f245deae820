"""The command that trains a preference model on a file of labelled pairs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.reward.preference_model import PreferenceModel
    from cai.train.cross_validation import Fold
    from cai.train.preference import Comparison

app = typer.Typer()
Source = Annotated[
    Path,
    typer.Option(
        "--input",
        help="JSONL: the output of `cai label`, or {chosen, rejected} dialogues of hh-rlhf.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting of `reward:` in a run's YAML; repeatable."
    ),
]


@app.command(
    epilog="Example: cai fit-reward --model smollm2 --input labelled.jsonl --output reward "
    "--folds 5 --by principle"
)
def fit_reward(
    model: Annotated[
        str, typer.Option(help="Base of the preference model: smollm2, or local:FOLDER_OR_HUB_ID.")
    ],
    source: Source,
    output: Annotated[
        Path, typer.Option("--output", help="A folder: adapter and head, metrics.json, a card.")
    ],
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validate first, with this many folds.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="What groups rows into folds: `principle`, or a field of the rows.")
    ] = "principle",
    settings: Settings = None,
    seed: int = 0,
) -> None:
    """Train a preference model on labelled pairs.

    With --folds, first estimate its agreement with judges whose labels it was not trained on.
    """
    quiet()
    from cai.modeling.model_files import training_weights
    from cai.pipeline.preference_model import CardFacts, fit_preference_model, fresh_model
    from cai.progress import progress_bars
    from cai.train.cross_validation import cross_validate

    base = training_weights(model)
    if output.exists():
        raise UsageError(f"{output}: is there already: give another --output, or remove it")
    config = _config(settings or [])
    untrained = fresh_model(base, config, seed)
    comparisons = _comparisons(untrained, source)
    with progress_bars() as progress:
        if folds is not None:
            results = cross_validate(
                lambda: fresh_model(base, config, seed),
                _grouped_comparisons(untrained, source, by),
                folds,
                config,
                seed=seed,
                progress=progress("folds"),
            )
            print_table(_folds_table(results))
        _, scores = fit_preference_model(
            untrained,
            comparisons,
            config,
            output,
            seed=seed,
            progress=progress("reward"),
            facts=CardFacts(name=source.stem, base=model, labels=None),
        )
    for score in scores:
        print(f"held-out {score.metric}: {estimate_text(score)}")


def _comparisons(model: PreferenceModel, source: Path) -> list[Comparison]:
    """All labelled pairs of a file; the number of rows that are skipped goes to standard error.

    Raises:
        StoreError: there is no labelled pair.
    """
    skipped: Counter[str] = Counter()
    rows = _grouped_comparisons(model, source, None, skipped)
    for reason, count in skipped.items():
        print(f"{source}: {count} rows skipped: {reason}", file=sys.stderr)
    if not rows:
        raise StoreError(f"{source}: no labelled pair in it")
    return [comparison for _, comparison in rows]


def _grouped_comparisons(
    model: PreferenceModel, source: Path, by: str | None, skipped: Counter[str] | None = None
) -> list[tuple[str, Comparison]]:
    """(group, comparison) of each labelled pair of a file.

    Args:
        model: whose tokenizer makes token rows of the pairs.
        source: JSONL.
        by: what groups the pairs: `principle`, or a field; None: one group, named "".
        skipped: reason -> rows skipped, counted up.
    """
    from cai.data.preferences import labelled_pairs
    from cai.pipeline.preference_model import make_comparison

    return [
        (
            pair.group or "",
            make_comparison(model, pair.prompt.chat, (pair.first, pair.second), pair.p_first),
        )
        for pair in labelled_pairs(source, by, skipped)
    ]


def _config(settings: list[str]) -> Any:
    from pydantic import ValidationError

    from cai.constitution.overrides import key_text
    from cai.constitution.yaml_source import parse_value
    from cai.train.preference import RewardConfig

    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(
                f"--set {key_text(setting)}: expected KEY=VALUE, for example --set epochs=3"
            )
        try:
            values[key] = parse_value(value)
        except ValueError as error:
            raise UsageError(f"--set {key_text(setting)}: the value is not YAML: {error}") from None
    if "label_share" in values:
        raise UsageError(
            "--set label_share: a file has no other pairs to mix in: that is for a run's YAML"
        )
    try:
        return RewardConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UsageError(f"--set {key}: {first['msg']}") from None


def _folds_table(folds: Sequence[Fold]) -> Table:
    from cai.pipeline.preference_model import agreement_and_loss

    table = Table(
        "left out",
        "trained on",
        "agreement",
        "log loss",
        title="labels of groups left out of training",
    )
    for fold in folds:
        estimates = map(estimate_text, agreement_and_loss("fold", fold.agreements))
        table.add_row(", ".join(fold.groups), f"{fold.train_pairs}", *estimates)
    measured = [agreement for fold in folds for agreement in fold.agreements]
    table.add_row("all", "", *map(estimate_text, agreement_and_loss("fold", measured)))
    return table

"""A preference model from labelled pairs of one's own."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.train.cross_validation import Fold

app = typer.Typer()


@app.command(epilog="Example: cai fit-reward --model smollm2 --input labelled.jsonl --output reward --folds 5 --by principle")
def fit_reward(
    model: Annotated[str, typer.Option(help="smollm2, or local:FOLDER_OR_HUB_ID: what the preference model is built on.")],
    source: Annotated[
        Path, typer.Option("--input", help="JSONL: what `cai label` writes, or {chosen, rejected} dialogues of hh-rlhf.")
    ],
    output: Annotated[Path, typer.Option("--output", help="A folder: adapter and head, metrics.json, a card.")],
    folds: Annotated[
        int | None, typer.Option(min=2, help="First train on all folds but one, for each, and measure on that one.")
    ] = None,
    by: Annotated[str, typer.Option(help="What folds are made of: `principle`, or a field of the rows.")] = "principle",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of `reward:` in a run's YAML; repeatable.")
    ] = None,
    seed: int = 0,
) -> None:
    """Train a preference model on labelled pairs; with --folds, tell first how well it foresees judges it has not learnt from."""
    quiet()
    from cai.data.preferences import labelled_pairs
    from cai.modeling.model_files import local_weights, locate
    from cai.pipeline.preference_model import fit_preference_model, fresh_model
    from cai.progress import progress_bars
    from cai.records import Prompt
    from cai.train.cross_validation import cross_validate
    from cai.train.preference import Comparison

    weights = local_weights(model)
    if weights is None:
        raise UsageError(f"--model {model}: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID")
    if output.exists():
        raise UsageError(f"{output}: is there already: give another --output, or remove it")
    where, config = locate(weights), _config(settings or [])
    untrained = fresh_model(where, config, seed)

    passed_over: Counter[str] = Counter()

    def read(group: str | None) -> list[tuple[str, Comparison]]:
        rows = untrained.rows
        return [
            (
                j.group or "",
                Comparison(Prompt(chat=j.prompt.chat).id, rows(j.prompt.chat, j.first), rows(j.prompt.chat, j.second), j.p_first),
            )
            for j in labelled_pairs(source, group, passed_over if group is None else None)
        ]

    comparisons = [comparison for _, comparison in read(None)]
    for reason, count in passed_over.items():
        print(f"{source}: {count} rows passed over: {reason}", file=sys.stderr)
    if not comparisons:
        raise StoreError(f"{source}: no labelled pair in it")
    with progress_bars() as progress:
        if folds is not None:
            found = cross_validate(
                lambda: fresh_model(where, config, seed), read(by), folds, config, seed=seed, progress=progress("folds")
            )
            print_table(_folds_table(found))
        _, scores = fit_preference_model(
            untrained,
            comparisons,
            config,
            output,
            seed=seed,
            progress=progress("reward"),
            labels=None,
            name=source.stem,
            base=model,
        )
    for score in scores:
        print(f"held-out {score.metric}: {estimate_text(score)}")


def _config(settings: list[str]) -> Any:
    import yaml
    from pydantic import ValidationError

    from cai.train.preference import RewardConfig

    given = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}: expected KEY=VALUE, for example --set epochs=3")
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {setting}: the value is not YAML") from None
    if "own_share" in given:
        raise UsageError("--set own_share: a file has no other pairs to be mixed with: that is for a run's YAML")
    try:
        return RewardConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"--set {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _folds_table(found: list[Fold]) -> Table:
    from cai.pipeline.preference_model import agreement_and_loss

    table = Table("left out", "trained on", "agreement", "log loss", title="verdicts of groups left out of training")
    for fold in found:
        table.add_row(
            ", ".join(fold.groups), f"{fold.learnt_from}", *map(estimate_text, agreement_and_loss("fold", fold.measured))
        )
    table.add_row("all", "", *map(estimate_text, agreement_and_loss("fold", [m for fold in found for m in fold.measured])))
    return table

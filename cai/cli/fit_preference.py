"""The command that trains a preference model on a file of labelled pairs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cai.cli.columns import Choice, Columns, column_names
from cai.cli.jsonl import FORMATS
from cai.cli.output import print_table
from cai.cli.silence import quiet
from cai.errors import StoreError, UsageError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.data.reply_pairs import PairOptions
    from cai.reward.preference_model import PreferenceModel
    from cai.train.comparison import Comparison
    from cai.train.cross_validation import Fold
    from cai.train.preference import RewardConfig

app = typer.Typer()
Source = Annotated[
    Path,
    typer.Option(
        "--input",
        help=f"Output of `cai label`, or rows of TRL, hh-rlhf or PKU-SafeRLHF: {FORMATS}",
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
    choice: Choice = None,
    columns: Columns = None,
    settings: Settings = None,
    seed: int = 0,
) -> None:
    """Train a preference model on labelled pairs.

    With --folds, first estimate its agreement with judges whose labels it was not trained on. After
    a kill the same command goes on from the last state that it saved (--set save_every).
    """
    quiet()
    from cai.data.reply_pairs import PROBABILITIES, REPLY_FIELDS, PairOptions
    from cai.modeling.model_files import training_weights
    from cai.pipeline.preference_model import CardFacts, fit_preference_model, fresh_model
    from cai.progress import progress_bars
    from cai.store import CHECKPOINTS, new_folder, partial_path
    from cai.train.cross_validation import cross_validate

    base = training_weights(model)
    config = _config(settings or [])
    options = PairOptions(column_names(columns, (*REPLY_FIELDS, *PROBABILITIES)), choice)
    work = _work(base, source, options, config) | {
        "--folds": "" if folds is None else f"{folds} by {by}",
        "--seed": str(seed),
    }
    with new_folder(output, work), progress_bars() as progress:
        untrained = fresh_model(base, config, seed)
        pairs = LabelledFile(untrained, source, options)
        comparisons = pairs.comparisons()
        if folds is not None:
            results = cross_validate(
                lambda: fresh_model(base, config, seed),
                pairs.by_group(by),
                folds,
                config,
                seed=seed,
                progress=progress("folds"),
                checkpoints=partial_path(output) / CHECKPOINTS,
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


def _work(base: str, source: Path, options: PairOptions, config: RewardConfig) -> dict[str, str]:
    """Option -> digest of what decides the model, for a later call that goes on with it."""
    from cai.modeling.loading import fingerprint
    from cai.store import digest, file_digest
    from cai.train.preference import HARDWARE_SETTINGS

    return {
        "--model": fingerprint(base),
        "--input": digest(file_digest(source), repr(options)),
        "--set": digest(config.model_dump_json(exclude=HARDWARE_SETTINGS)),
    }


@dataclass(frozen=True)
class LabelledFile:
    """A file of labelled pairs."""

    model: PreferenceModel
    """Its tokenizer makes token rows of the pairs, and its window bounds them."""
    path: Path
    options: PairOptions

    def comparisons(self) -> list[Comparison]:
        """All labelled pairs; what is left out is counted on standard error.

        Raises:
            StoreError: there is no labelled pair.
            TrainError: none fits the model's window.
        """
        from cai.pipeline.preference_model import within_window

        skipped: Counter[str] = Counter()
        read = [comparison for _, comparison in self._read(None, skipped)]
        comparisons, too_long = within_window(self.model, read)
        if too_long:
            skipped[f"longer than the model's window of {self.model.window} tokens"] = too_long
        for reason, count in skipped.items():
            print(f"{self.path}: {count} rows skipped: {reason}", file=sys.stderr)
        if not comparisons:
            raise StoreError(f"{self.path}: no labelled pair in it")
        return comparisons

    def by_group(self, by: str) -> list[tuple[str, Comparison]]:
        """(group, comparison) of each labelled pair that fits the model's window.

        Args:
            by: what groups the pairs: `principle`, or a field.
        """
        from cai.pipeline.preference_model import fits_window

        return [
            (group, comparison)
            for group, comparison in self._read(by, Counter())
            if fits_window(self.model, comparison)
        ]

    def _read(self, by: str | None, skipped: Counter[str]) -> Iterator[tuple[str, Comparison]]:
        from cai.data.preferences import labelled_pairs
        from cai.pipeline.preference_model import make_comparison

        for pair in labelled_pairs(self.path, by, skipped, self.options):
            replies = (pair.first, pair.second)
            yield (
                pair.group or "",
                make_comparison(self.model, pair.prompt.chat, replies, pair.p_first),
            )


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

"""The report of `cai label --report`: diagnostics of the judge in a file of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cai.cli.output import print_table
from cai.errors import StoreError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.data.reply_pairs import PairOptions
    from cai.records import Preference
    from cai.report.labels import HumanAgreement

COLUMNS = 120


def label_report(file: Path, options: PairOptions, prefix: str = "") -> None:
    """Print tables about the labels, about people's labels if there are any, and by principle.

    Args:
        file: of a run, or of `cai label`.
        options: how people's choices are read from the rows.
        prefix: beginning of the names of the labels' fields.
    """
    from cai.report.labels import compare_with_humans

    rows: list[Preference] = []
    human: dict[str, float] = {}
    for preference, human_label in _preferences(file, options, prefix):
        rows.append(preference)
        if human_label is not None:
            human[preference.source] = human_label
    people = compare_with_humans(rows, human) if human else None
    print_table(_summary_table(file, rows, people), COLUMNS)
    if people is not None:
        print_table(_reliability_table(people), COLUMNS)
    print_table(_principles_table(rows), COLUMNS)


def _summary_table(file: Path, rows: Sequence[Preference], people: HumanAgreement | None) -> Table:
    from cai.report.labels import diagnose

    diagnostics = diagnose(rows)
    table = Table("labels", "value", title=f"{file}: {len(rows)} pairs")
    for name, score in diagnostics.rows:
        table.add_row(name, estimate_text(score))
    if diagnostics.alpha is not None:
        name = "agreement of a pair's principles (Krippendorff's alpha)"
        table.add_row(name, f"{diagnostics.alpha:.3f}")
    for reason, count in diagnostics.unscored:
        table.add_row(f"no label: {reason}", str(count))
    if people is not None:
        table.add_row("agreement with people", estimate_text(people.agreement))
        ece = "–" if people.ece is None else f"{people.ece:.3f}"
        table.add_row("expected calibration error", ece)
    return table


def _reliability_table(people: HumanAgreement) -> Table:
    table = Table("probability of the likelier reply", "people chose it", "n", title="reliability")
    for point in people.curve:
        table.add_row(f"{point.predicted:.2f}", f"{point.observed:.2f}", str(point.n))
    return table


def _principles_table(rows: Sequence[Preference]) -> Table:
    from cai.report.labels import by_principle

    table = Table(
        "principle",
        "votes",
        "flip rate",
        "position bias (nats)",
        "abstentions",
        "mean p_first",
        title="by principle",
    )
    for principle, (flips, bias, abstentions, p_first) in by_principle(rows).items():
        estimates = [estimate_text(score) for score in (flips, bias, abstentions, p_first)]
        table.add_row(principle, str(abstentions.n), *estimates)
    return table


def _preferences(
    file: Path, options: PairOptions, prefix: str
) -> Iterator[tuple[Preference, float | None]]:
    """The labels in a file of a run or of `cai label`, each with people's label.

    Raises:
        StoreError: a row is not a label, as file:line.
    """
    from cai.data.readers import located_rows
    from cai.data.reply_pairs import PAIR_CELLS
    from cai.records import Preference
    from cai.store import parse_row

    for number, (location, data) in enumerate(located_rows(file, PAIR_CELLS), 1):
        if f"{prefix}p_first" not in data:
            raise StoreError(f"{location}: not a label: it has no `{prefix}p_first`")
        fields: dict[str, Any] = {key: data.get(prefix + key) for key in ("p_first", "unscored")}
        fields |= {"votes": data.get(f"{prefix}votes") or (), "source": str(number)}
        yield parse_row(fields, Preference, location), human_label(data, location, options)


def human_label(data: dict[str, Any], location: str, options: PairOptions) -> float | None:
    """P(first is better) by people: `human`, or the choice in a row of a preference data set.

    None where the row has none, or its replies are equal.

    Raises:
        StoreError: it is no probability.
    """
    from cai.data.reply_pairs import reply_pair

    human = data.get("human")
    if human is not None and (not isinstance(human, int | float) or not 0 <= human <= 1):
        raise StoreError(
            f"{location}: `human` must be a number from 0 to 1: "
            "the probability that the first reply is better"
        )
    if human is None and any(data.get(key) is not None for key in ("chosen", "response_0")):
        pair = reply_pair(data, location, options)
        human = None if pair is None or pair.first == pair.second else pair.p_first
    return None if human is None else float(human)

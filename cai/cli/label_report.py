"""`cai label --report`: what a file of labels says about its judge."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cai.errors import StoreError
from cai.report.formats import estimate_text

if TYPE_CHECKING:
    from cai.records import Preference


def label_report(file: Path) -> None:
    """Tables on standard output."""
    from cai.report.labels import against_people, by_principle, diagnose

    rows, human = [], {}
    for preference, said in _preferences(file):
        rows.append(preference)
        if said is not None:
            human[preference.source] = said
    console = Console(width=None if sys.stdout.isatty() else 120)
    found = diagnose(rows)
    table = Table("labels", "value", title=f"{file}: {len(rows)} pairs")
    for name, score in found.rows:
        table.add_row(name, estimate_text(score))
    if found.alpha is not None:
        table.add_row("agreement of a pair's principles (Krippendorff's alpha)", f"{found.alpha:.3f}")
    for reason, count in found.unscored:
        table.add_row(f"no label: {reason}", str(count))
    if human:
        people = against_people(rows, human)
        table.add_row("agreement with people", estimate_text(people.agreement))
        table.add_row("expected calibration error", "–" if people.ece is None else f"{people.ece:.3f}")
    console.print(table)
    if human:
        curve = Table("probability of the likelier reply", "people chose it", "n", title="reliability")
        for one in people.curve:
            curve.add_row(f"{one.predicted:.2f}", f"{one.observed:.2f}", str(one.n))
        console.print(curve)
    by = Table("principle", "votes", "flips", "liking for slot A", "silent", "mean p_first", title="by principle")
    for principle, (flips, lean, silent, mean) in by_principle(rows).items():
        by.add_row(
            principle, str(silent.n), estimate_text(flips), estimate_text(lean), estimate_text(silent), estimate_text(mean)
        )
    console.print(by)


def _preferences(file: Path) -> Iterator[tuple[Preference, float | None]]:
    """Labels of a run, or of a file tool; with what people said (`human`, P(first is better)) where a row has that."""
    from cai.records import Preference
    from cai.store import json_lines, parse_row

    for number, data in json_lines(file):
        place = f"{file}:{number}"
        if "p_first" not in data:
            raise StoreError(f"{place}: not a label: it has no `p_first`")
        given: dict[str, Any] = {key: data.get(key) for key in ("p_first", "unscored")}
        given |= {"votes": data.get("votes") or (), "source": str(number)}
        human = data.get("human")
        if human is not None and (not isinstance(human, int | float) or not 0 <= human <= 1):
            raise StoreError(f"{place}: `human` must be a number from 0 to 1: the probability that the first reply is better")
        yield parse_row(given, Preference, place), None if human is None else float(human)

"""The headline table: cells, order, changes."""

from __future__ import annotations

import io

import pytest
from report_toys import score
from rich.console import Console

from cai.records import Score
from cai.report.table import cell, changes, headline, headline_markdown


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (score("refusal.incorrect_rate.disallowed", 0.62), "62 % [50, 73] n=96"),
        (
            score("refusal.incorrect_rate.disallowed", 0.62, unscored=3),
            "62 % [50, 73] n=96 (3 unscored)",
        ),
        (score("reward.mean", -1.24), "−1.24 [−1.36, −1.13] n=96"),
        (score("length.words", 40.06, n=2), "40.1 [39.9, 40.2] n=2"),
        (score("refusal.f1", 0.5, ends=False, n=1), "50 % n=1"),
        (score("refusal.f1", None, n=0, unscored=8), "– n=0 (8 unscored)"),
        (score("refusal.incorrect_rate.disallowed.change", -0.4), "−40 pp [−52, −29] n=96"),
        (score("refusal.incorrect_rate.disallowed.relative_change", 0.4), "+40 % [+28, +51] n=96"),
        (score("refusal.refusal_rate.benign.change", -0.001, ends=False), "0 pp n=96"),
        (None, "–"),
    ],
)
def test_cells(row: Score | None, text: str) -> None:
    assert cell(row) == text


def test_headline_keeps_its_order_and_says_what_is_unknown() -> None:
    rows = [
        score("kl.mean", 2.0, "policy", ends=False),
        score("kl.at.1", 3.0, "policy", ends=False),
        score("kl.at.0.7", 2.5, "policy", ends=False),
        score("refusal.refusal_rate.benign", 0.25, "policy", ends=False),
        score("refusal.refusal_rate.benign", 0.5, "base", ends=False),
        score("refusal.refusal_rate.benign", 0.5, "a|b", ends=False),
        score("other.metric", 0.5, "elsewhere"),
    ]
    assert headline_markdown(rows) == (
        "| metric | base | policy | a\\|b |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| refusals of benign ↓ | 50 % n=96 | 25 % n=96 | 50 % n=96 |\n"
        "| KL from reference at T = 1, nats per reply | – | 3.00 n=96 | – |\n"
        "| KL from reference at T = 0.7, nats per reply | – | 2.50 n=96 | – |\n"
        "| KL from reference, nats per reply | – | 2.00 n=96 | – |\n"
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(headline(rows))
    shown = console.export_text()
    assert [name for name in ("base", "policy", "a|b") if name in shown] == [
        "base",
        "policy",
        "a|b",
    ]
    assert "25 % n=96" in shown


def test_rich_markup_in_a_name_is_text() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(headline([score("reward.mean", 1.0, "[red]x[/red]")]))
    assert "[red]x[/red]" in console.export_text()


def test_changes_stand_side_by_side() -> None:
    metric = "refusal.refusal_rate.benign"
    rows = [
        score(f"{metric}.change", 0.1, "sft-base", ends=False),
        score(f"{metric}.relative_change", 0.5, "sft-base", ends=False),
    ]
    assert changes(rows) == [("refusals of benign ↓", "sft − base", "+10 pp n=96", "+50 % n=96")]

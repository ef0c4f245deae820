"""Label diagnostics, tables and plots of the report, on numbers small enough to follow by hand."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from cai.records import Preference, Score, Vote
from cai.report.cards import preference_card
from cai.report.labels import diagnose, flipped, position_bias
from cai.report.plots import ppo_curves, style_shares
from cai.report.table import cell, changes, headline, headline_markdown
from cai.store import Manifest

STEPS = [
    {"step": i, "reward": 0.1 * i, "kl": 0.5 * i, "reward.pm": 0.2, "reward.rubric": 0.1 * i - 0.2}
    for i in range(5)
]


def score(
    metric: str,
    mean: float | None,
    subject: str = "base",
    *,
    n: int = 96,
    unscored: int = 0,
    ends: bool = True,
) -> Score:
    low, high = (None, None) if mean is None or not ends else (mean - 0.12, mean + 0.11)
    return Score(
        metric=metric,
        subject=subject,
        mean=mean,
        stderr=None,
        ci_low=low,
        ci_high=high,
        n=n,
        unscored=unscored,
    )


def vote(
    logprobs: tuple[float, float] | None, swapped: tuple[float, float] | None, p: float | None
) -> Vote:
    return Vote(principle="p", logprobs=logprobs, logprobs_swapped=swapped, p_first=p)


# ---- cards ----


def test_a_preference_models_card() -> None:
    """Figures with their interval and count; what is not known is a dash; the labels' origin as their manifest has it."""
    made = Manifest(
        stage="label",
        made={"constitution": "toy 1", "judge": "abc", "seed": "7"},
        versions={"cai": "0.1.0"},
    )
    scores = [score("reward.agreement", 0.65), score("reward.log_loss", None)]
    text = preference_card(
        "soft", 40, scores, made, "toy", "`smollm2`", "that model's replies"
    ).content
    assert "(`safetensors`) on `smollm2`. The score" in text
    assert "mean 0 and variance 1 over that model's replies." in text
    assert "library_name: cai" in text.split("---")[1]
    assert "Trained on 40 pairs with soft labels" in text
    assert "| reward.agreement | 0.650 | [0.530, 0.760] | 96 |" in text
    assert "| reward.log_loss | – | – | 96 |" in text
    assert "| label | toy 1 | abc | 7 |" in text


# ---- labels ----


def test_flip_and_lean_by_hand() -> None:
    """Margins of A over B: 2 and 1 is slot A twice, a flip, lean 1.5; 2 and −1 is the first reply twice, lean .5."""
    assert flipped(vote((-0.1, -2.1), (-0.5, -1.5), 0.6)) is True
    assert position_bias(vote((-0.1, -2.1), (-0.5, -1.5), 0.6)) == pytest.approx(1.5)
    assert flipped(vote((-0.1, -2.1), (-1.5, -0.5), 0.8)) is False
    assert position_bias(vote((-0.1, -2.1), (-1.5, -0.5), 0.8)) == pytest.approx(0.5)
    assert flipped(vote((-1.0, -1.0), (-0.5, -1.5), 0.5)) is None, "a tie names nobody"
    assert (
        flipped(vote(None, (-0.5, -1.5), None))
        is position_bias(vote(None, (-0.5, -1.5), None))
        is None
    )


def test_label_diagnostics_by_hand() -> None:
    """Three pairs. x: a flip (p .6) and a steady vote (p .9), label .75; y: a steady vote and a silent one, label .2; z: nothing.

    Flips 1 of 3 known; silent 2 of 5 votes; pairs without label 1 of 3; spread only of x, .3; p_first mean .475.
    """
    flip, steady, silent = (
        vote((1, 0), (2, 0), 0.6),
        vote((1, 0), (0, 2), 0.9),
        vote(None, None, None),
    )
    got = diagnose(
        [
            Preference(source="x", p_first=0.75, votes=(flip, steady)),
            Preference(source="y", p_first=0.2, votes=(vote((0, 1), (1, 0), 0.2), silent)),
            Preference(source="z", p_first=None, votes=(silent,), unscored="no option found"),
        ]
    )
    rows = {score.metric: score for _, score in got.rows}
    assert rows["label.flip_rate"].mean == pytest.approx(1 / 3)
    assert (rows["label.flip_rate"].n, rows["label.flip_rate"].unscored) == (3, 2)
    assert rows["label.abstention_rate"].mean == pytest.approx(2 / 5)
    assert rows["label.unscored_rate"].mean == pytest.approx(1 / 3)
    assert rows["label.spread"].mean == pytest.approx(0.3)
    assert rows["label.p_first"].mean == pytest.approx(0.475)
    assert rows["label.p_first"].unscored == 1
    assert rows["label.decidedness"].mean == pytest.approx((0.25 + 0.3) / 2)
    assert got.unscored == [("no option found", 1)]
    assert got.bins == [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]


def test_a_certain_label_falls_into_the_last_bin() -> None:
    assert diagnose(
        [Preference(source="x", p_first=1.0), Preference(source="y", p_first=0.0)]
    ).bins == [1, *[0] * 8, 1]


# ---- tables ----


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
        score("refusal.refusal_rate.benign", 0.25, "policy", ends=False),
        score("refusal.refusal_rate.benign", 0.5, "base", ends=False),
        score("refusal.refusal_rate.benign", 0.5, "a|b", ends=False),
        score("other.metric", 0.5, "elsewhere"),
    ]
    assert headline_markdown(rows) == (
        "| metric | base | policy | a\\|b |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| refusals of benign ↓ | 50 % n=96 | 25 % n=96 | 50 % n=96 |\n"
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


# ---- plots ----


def test_plots_are_well_formed_repeatable_and_follow_the_page() -> None:
    styles = [
        score(f"refusal.style.disallowed.{name}", 0.25)
        for name in ("desired_refusal", "disallowed_content")
    ]
    for svg in (ppo_curves(STEPS), style_shares(styles)):
        assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314
        assert "currentColor" in svg
        assert "<style" not in svg
        assert "<metadata" not in svg
        ids = re.findall(r' id="([^"]*)"', svg)
        assert len(ids) == len(set(ids))
    assert ppo_curves(STEPS) == ppo_curves(STEPS)


def test_axes_have_names_and_units() -> None:
    svg = ppo_curves(STEPS)
    assert ">a$b$c</text>" in ppo_curves([{**step, "reward.a$b$c": 0.0} for step in STEPS]), (
        "a dollar is no formula"
    )
    for words in ("PPO update", "reward per reply", "KL (nats per reply)", "total", "pm", "rubric"):
        assert f">{words}</text>" in svg


def test_a_missing_number_is_a_gap_not_a_zero() -> None:
    """Five updates, the middle one unknown: the KL line is drawn in two pieces, each begun by a pen that is set down anew."""
    broken = [{**step, "kl": None if step["step"] == 2 else step["kl"]} for step in STEPS]
    whole, cut = (
        re.findall(r'd="([^"]*)"[^>]*stroke: #d55e00; stroke-width: 2.2', ppo_curves(steps))
        for steps in (STEPS, broken)
    )
    assert [path.count("M") for path in whole] == [1]
    assert [path.count("M") for path in cut] == [2]


def test_long_and_foreign_names_do_not_push_the_plot_away() -> None:
    """Of a path of 205 characters the last 31 and an ellipsis stay; a name in a script that the layout font lacks is kept."""
    path = "x" * 200 + "/y\x00z策"
    svg = style_shares([score("refusal.style.benign.safe_answer", 1.0, path, n=8)])
    assert f">…{'x' * 26}/y\ufffdz策, n=8<" in svg
    assert ET.fromstring(svg) is not None  # noqa: S314


def test_style_bars_show_their_shares() -> None:
    """Of the benign replies of base 75 % are safe answers: the number is on the bar, and n beside the subject."""
    rows = [
        score("refusal.style.benign.safe_answer", 0.75, n=8),
        score("refusal.style.benign.undesired_refusal", 0.25, n=8),
    ]
    svg = style_shares(rows)
    for words in (
        ">75<",
        ">25<",
        ">base, n=8<",
        ">benign prompts<",
        ">share of replies (%)<",
        ">undesired refusal<",
    ):
        assert words in svg
    assert "disallowed prompts" not in svg

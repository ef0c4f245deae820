"""Plots: well-formed, repeatable SVG with labels and gaps."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from report_toys import STEPS, score

from cai.report.plots import ppo_curves, style_shares, validation_curves


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
        "a dollar sign does not start a formula"
    )
    for words in ("PPO update", "reward per reply", "KL (nats per reply)", "total", "pm", "rubric"):
        assert f">{words}</text>" in svg


def test_validation_names_its_groups_and_the_kept_weights() -> None:
    rows = [
        {"updates": 0, "score": -1.0, "failures.benign/borderline": 0.25},
        {"updates": 2, "score": -0.5, "failures.benign/borderline": 0.125},
    ]
    svg = validation_curves(rows)
    for words in ("benign/borderline", "kept weights", "failing replies (%)"):
        assert f">{words}</text>" in svg


def test_a_missing_number_is_a_gap_not_a_zero() -> None:
    """Five updates, the middle one unknown: the KL line has two pieces, each with its M command."""
    broken = [{**step, "kl": None if step["update"] == 2 else step["kl"]} for step in STEPS]
    complete, broken_lines = (
        re.findall(r'd="([^"]*)"[^>]*stroke: #d55e00; stroke-width: 2.2', ppo_curves(steps))
        for steps in (STEPS, broken)
    )
    assert [path.count("M") for path in complete] == [1]
    assert [path.count("M") for path in broken_lines] == [2]


def test_long_and_foreign_names_do_not_push_the_plot_away() -> None:
    """An ellipsis and the last 31 of 205 characters stay, also in a script without a font."""
    path = "x" * 200 + "/y\x00z策"
    svg = style_shares([score("refusal.style.benign.safe_answer", 1.0, path, n=8)])
    assert f">…{'x' * 26}/y\ufffdz策, n=8<" in svg
    assert ET.fromstring(svg) is not None  # noqa: S314


def test_style_bars_show_their_shares() -> None:
    """75 % safe answers among the benign replies of base: on the bar, with n at the subject."""
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

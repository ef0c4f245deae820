"""Plots: well-formed, repeatable SVG with labels and gaps."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from report_toys import STEPS, score

from cai.report.score_plots import helpful_harmless, style_shares
from cai.report.training_plots import MAX_POINTS, ppo_curves, text_curves, thin, validation_curves


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


def test_help_against_harm_has_a_point_and_an_interval_per_subject() -> None:
    """Three subjects with both numbers; one that lacks a number is not drawn."""
    scores = [
        score(metric, share, subject)
        for subject, share in (("base", 0.5), ("policy", 0.3), ("other $x$", 0.4))
        for metric in ("refusal.incorrect_rate.disallowed", "refusal.refusal_rate.benign")
    ]
    scores.append(score("refusal.refusal_rate.benign", 0.2, "half"))
    svg = helpful_harmless([("one run", scores)]) or ""
    for words in ("base", "policy", "other $x$", "refusals of benign prompts (%)   ← better"):
        assert f">{words}</text>" in svg
    assert "half" not in svg
    assert "one run" not in svg, "one run needs no legend"
    lines = [svg.count(f"stroke: {color}; stroke-width: 1.3") for color in ("#e69f00", "#0072b2")]
    assert lines == [2, 2], "an interval in each direction"
    assert helpful_harmless([("x", scores[-1:])]) is None
    several = helpful_harmless([("run <a>", scores), ("run b", scores)]) or ""
    assert ">run &lt;a&gt;</text>" in several
    assert ">run b</text>" in several


def test_length_and_variety_over_updates() -> None:
    rows = [{**step, "length": 20.0, "distinct_2": 0.5, "top_response": 0.1} for step in STEPS]
    svg = text_curves(rows)
    for words in ("tokens per reply", "distinct-2", "commonest reply"):
        assert f">{words}</text>" in svg
    assert "ended by the model" not in svg


def test_a_long_run_has_no_more_points_than_the_bound() -> None:
    rows = [{"update": i} for i in range(5 * MAX_POINTS + 3)]
    drawn = [row["update"] for row in thin(rows)]
    assert len(drawn) == len(set(drawn)) == MAX_POINTS
    assert (drawn[0], drawn[-1]) == (0, len(rows) - 1)
    assert thin(rows[:MAX_POINTS]) == rows[:MAX_POINTS]


def test_many_lines_leave_room_for_the_plot() -> None:
    """Forty terms, groups or runs with long names: the first are named, and their number."""
    names = [f"{i:02} of a rather long name of a term" for i in range(40)]
    rows = [{**step, **{f"reward.{name}": 0.1 for name in names}} for step in STEPS]
    groups = [{"updates": 0, "score": 0.0, **{f"failures.{name}": 0.1 for name in names}}]
    scores = [
        score(metric, 0.5)
        for metric in ("refusal.incorrect_rate.disallowed", "refusal.refusal_rate.benign")
    ]
    for svg, count in (
        (ppo_curves(rows), 42),
        (validation_curves(groups), 40),
        (helpful_harmless([(name, scores) for name in names]) or "", 40),
    ):
        assert f">first 14 of {count}</text>" in svg

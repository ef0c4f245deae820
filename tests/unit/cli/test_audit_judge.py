"""cai audit-judge: figures by hand, baselines, the card, resumption, and who reads the audit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from canned_runs import open_toy_run
from cli_runner import Capture, CommandResult, run_command, write_lines
from published_toys import save_reward_model

from cai.artifacts import PAIRS, PREFERENCES, PROMPTS
from cai.errors import StoreError
from cai.pipeline.data_stages import label
from cai.pipeline.judge_audits import warn_before_ppo
from cai.records import Pair, Preference, Vote, chat_of
from cai.report.judge_audit import Audit, AuditedPair, audit_scores, read_audit

SHORT, LONG = "Yes.", "It depends on many things."


def rows_of(chosen: str, rejected: str) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {i}?", "chosen": chosen, "rejected": rejected} for i in range(12)]


def audit(
    capsys: Capture,
    folder: Path,
    rows: list[dict[str, Any]],
    *more: object,
    model: str = "fake:brief",
) -> CommandResult:
    source = write_lines(folder / "in.jsonl", *rows)
    options = ("--constitution", "helpful_honest", "--model", model, "--input", source)
    return run_command(capsys, "audit-judge", *options, "--output", folder / "a.jsonl", *more)


def means(record: Audit) -> dict[str, float | None]:
    return {score.metric.removeprefix("audit."): score.mean for score in record.scores}


def test_a_judge_of_known_lean(capsys: Capture, tmp_path: Path) -> None:
    """`brief` has log-odds of 2 for the shorter reply and 1 more for (A).

    Both orders: sigma(2) = 0.8808 for the shorter one, which people chose. Margins: 3 with it as
    (A), and 1 - 2 = -1 with it as (B): both verdicts are people's, none flips, the lean is +1, and
    one verdict of two is (A). Log loss: -log 0.8808 = 0.1269.
    """
    result = audit(capsys, tmp_path, rows_of(SHORT, LONG))
    assert result.code == 0, result.err
    record = read_audit(tmp_path / "a.audit.json")
    got = means(record)
    assert (got["agreement"], got["agreement.shown_a"], got["agreement.shown_b"]) == (1, 1, 1)
    assert (got["shortest"], got["longest"], got["flip_rate"]) == (1, 0, 0)
    assert got["position_lean"] == pytest.approx(1)
    assert got["first_shown_rate"] == pytest.approx(0.5)
    assert got["option_mass"] == pytest.approx(1)
    assert got["log_loss"] == pytest.approx(math.log(1 + math.exp(-2)))
    assert record.ece == pytest.approx(1 - 1 / (1 + math.exp(-2)))
    assert (record.pairs, record.calls, record.cost) == (12, 24, None)
    assert record.is_better_than_a_constant
    card = (tmp_path / "a.md").read_text()
    assert result.out == card
    assert card.startswith("# Audit of the judge `fake:brief`\n")
    assert "It leans to reply (A), the first shown, by 1.00 nats" in card
    assert "| baseline: the longer reply | 0.000" in card
    assert "no better" not in result.err


def test_a_judge_that_is_wrong_is_no_better_than_a_constant(
    capsys: Capture, tmp_path: Path
) -> None:
    result = audit(capsys, tmp_path, rows_of(LONG, SHORT), "--set", "prices.prompt=1")
    assert result.code == 0
    record = read_audit(tmp_path / "a.audit.json")
    assert means(record)["agreement"] == 0
    assert record.cost is not None
    start = "audit-judge: the judge fake:brief did no better than a constant in its audit"
    assert f"\n{start}: agreement 0.000" in result.err
    assert "**It did no better than a constant" in result.out


def test_the_order_of_the_file_does_not_matter(capsys: Capture, tmp_path: Path) -> None:
    """Half of the pairs the other way round, as PKU-SafeRLHF has them; one without a verdict."""
    mixed: list[dict[str, Any]] = []
    for i in range(12):
        replies = (SHORT, LONG) if i % 2 else (LONG, SHORT)
        row = {"response_0": replies[0], "response_1": replies[1]}
        mixed.append({"prompt": f"Q {i}?", **row, "better_response_id": replies.index(SHORT)})
    tied = {"prompt": "Q?", "first": "a", "second": "b c", "human": 0.5}
    audit(capsys, tmp_path, [*mixed, tied])
    record = read_audit(tmp_path / "a.audit.json")
    got = means(record)
    assert (record.pairs, got["agreement"], got["agreement.shown_b"]) == (12, 1, 1)
    assert got["position_lean"] == pytest.approx(1)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows[-1]["judge_unscored"] == "people do not say which reply is better"
    assert rows[-1]["judge_usage"] == [0, 0, 0]


def test_labels_in_columns_of_other_names(capsys: Capture, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {i}?", "good": SHORT, "bad": LONG} for i in range(12)]
    names = ("--column", "chosen=good", "--column", "rejected=bad")
    assert audit(capsys, tmp_path, rows, *names).code == 0
    assert means(read_audit(tmp_path / "a.audit.json"))["agreement"] == 1
    labelled = [{"prompt": f"Q {i}?", "first": LONG, "second": SHORT, "p_first": 0.2}
                for i in range(3)]  # fmt: skip
    (tmp_path / "b").mkdir()
    assert audit(capsys, tmp_path / "b", labelled).code == 0
    assert means(read_audit(tmp_path / "b" / "a.audit.json"))["agreement"] == 1


def test_a_killed_audit_goes_on(capsys: Capture, tmp_path: Path) -> None:
    audit(capsys, tmp_path, rows_of(SHORT, LONG))
    files = [tmp_path / name for name in ("a.jsonl", "a.audit.json", "a.md")]
    expected = [file.read_bytes() for file in files]
    lines = expected[0].splitlines(keepends=True)
    files[0].write_bytes(b"".join(lines[:5]) + b'{"prompt"')
    assert audit(capsys, tmp_path, rows_of(SHORT, LONG)).code == 0
    assert [file.read_bytes() for file in files[1:]] == expected[1:]


def test_a_file_without_labels_is_refused(capsys: Capture, tmp_path: Path) -> None:
    result = audit(capsys, tmp_path, [{"prompt": "Hi", "first": "a", "second": "b"}])
    assert result.code == 2
    assert "no pair has a label of people" in result.err


def test_a_reward_model_is_audited_too(capsys: Capture, tmp_path: Path) -> None:
    spec = f"reward:{save_reward_model(tmp_path / 'rm')}"
    result = audit(capsys, tmp_path, rows_of(SHORT, LONG), "--scale", 2, model=spec)
    assert result.code == 0, result.err
    record = read_audit(tmp_path / "a.audit.json")
    assert means(record)["position_lean"] == pytest.approx(0)
    assert (record.calls, record.spec) == (0, spec)
    assert record.temperature is not None


def test_masses_by_hand() -> None:
    """P(A) + P(B) = .5 + .1 and .2 + .4: a mean mass of .6. Verdicts: (A), then (B). The second
    vote has no verdict in one order.
    """
    first, swapped = (math.log(0.5), math.log(0.1)), (math.log(0.2), math.log(0.4))
    vote = Vote(principle="p", logprobs=first, logprobs_swapped=swapped, p_first=0.8)
    half = Vote(principle="p", logprobs=None, logprobs_swapped=swapped, p_first=None)
    labels = [
        Preference(source="1", p_first=0.8, votes=(vote,)),
        Preference(source="2", p_first=None, votes=(half,), unscored="no"),
    ]
    scores, _, _ = audit_scores([AuditedPair(entry, 1.0, (3, 3)) for entry in labels])
    got = {score.metric.removeprefix("audit."): score for score in scores}
    assert got["option_mass"].mean == pytest.approx(0.6)
    assert got["first_shown_rate"].mean == pytest.approx(0.5)
    assert (got["agreement"].mean, got["agreement"].unscored) == (1, 1)
    assert (got["unscored_rate"].mean, got["shortest"].mean) == (0.5, 0.5)


def test_label_says_whether_its_judge_was_audited(capsys: Capture, tmp_path: Path) -> None:
    audit(capsys, tmp_path, rows_of(SHORT, LONG))
    record = tmp_path / "a.audit.json"

    def said(name: str, *more: object, model: str = "fake:brief") -> str:
        options = ("--constitution", "helpful_honest", "--model", model)
        files = ("--input", tmp_path / "in.jsonl", "--output", tmp_path / name)
        result = run_command(capsys, "label", *options, *files, *more)
        assert result.code == 0
        return result.err

    never = "label: the judge fake:brief was never audited: how far its labels agree with people "
    assert never in said("1.jsonl")
    assert "audit" not in said("2.jsonl", "--audit", record)
    other = said("3.jsonl", "--audit", record, model="fake:echo")
    assert "label: the audit is of another judge (fake:brief)" in other
    settings = said("4.jsonl", "--audit", record, "--preset", "direct")
    assert "label: the audit of fake:brief is of other settings of label" in settings


def test_a_run_says_so_before_labels_and_ppo(capsys: Capture, tmp_path: Path) -> None:
    audit(capsys, tmp_path, rows_of(LONG, SHORT))
    ctx = open_toy_run(tmp_path, "judge_audit: a.audit.json\n")
    said: list[str] = []
    ctx.notify = said.append
    pair = Pair(source="s", chat=chat_of(("user", "Hi")), first="Yes.", second="No, never.")
    ctx.path(PAIRS).write_text(pair.line() + "\n")
    ctx.path(PROMPTS).write_text("")
    label(ctx)
    assert ctx.path(PREFERENCES).exists()
    warn_before_ppo(ctx)
    start = "the judge fake:brief did no better than a constant in its audit: agreement 0.000"
    label_line, ppo_line = said
    assert label_line.startswith(f"label: {start}")
    assert ppo_line.startswith(f"ppo: {start}")


def test_what_is_no_audit(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(StoreError, match="not a record of cai audit-judge"):
        read_audit(tmp_path / "x.json")

"""lm-evaluation-harness: its files of results and samples, as version 0.4.13 writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Capture, run_command
from json_lines import write_lines

from cai import store
from cai.errors import StoreError
from cai.integrations.capability_results import read_capability
from cai.integrations.lm_eval_results import read_lm_eval
from cai.records import Score

DATE = "2026-11-27T00-44-41.896632"


def write_results(
    folder: Path, correct: Sequence[float], *, date: str = DATE, samples: bool = True, **parts: Any
) -> Path:
    """One task `sums` with the sample scores `correct`, and a metric `bits_per_byte` of no mean."""
    folder.mkdir(parents=True, exist_ok=True)
    mean, n = sum(correct) / len(correct), len(correct)
    values = {
        "name": "sums",
        "alias": "sums",
        "sample_len": n,
        "acc,none": mean,
        "acc_stderr,none": 0.1,
        "bits_per_byte,none": 10.5,
        "bits_per_byte_stderr,none": "N/A",
    }
    data = {
        "results": {"sums": values},
        "group_subtasks": {},
        "versions": {"sums": 1.0},
        "n-shot": {"sums": 0},
        "higher_is_better": {"sums": {"acc": True, "bits_per_byte": False}},
        "n-samples": {"sums": {"original": 40, "effective": n}},
        "model_name": "/models/base",
        "chat_template_sha": "94d7",
        "fewshot_as_multiturn": True,
    }
    file = folder / f"results_{date}.json"
    file.write_text(json.dumps(data | parts), encoding="utf-8")
    rows = [
        {
            "doc_id": i,
            "doc_hash": f"h{i}",
            "filter": "none",
            "metrics": ["acc", "bits_per_byte"],
            "acc": value,
            "bits_per_byte": [-51.5, 7],
        }
        for i, value in enumerate(correct)
    ]
    if samples:
        write_lines(folder / f"samples_sums_{date}.jsonl", *rows)
    return file


def test_samples_are_taken_where_their_mean_is_the_metric(tmp_path: Path) -> None:
    acc, bits = read_lm_eval(write_results(tmp_path, [1, 0, 1, 1]), "base")
    assert (acc.metric, acc.mean, acc.n, acc.higher_is_better) == (
        "lm_eval.sums.acc",
        0.75,
        4,
        True,
    )
    assert acc.samples is not None
    assert list(acc.samples.values()) == [1, 0, 1, 1]
    assert (bits.mean, bits.stderr, bits.samples) == (10.5, None, None)
    assert bits.reason == "bits_per_byte is not the mean of its samples"


def test_a_score_of_nan_is_unknown(tmp_path: Path) -> None:
    file = write_results(tmp_path, [1, 0])
    samples = tmp_path / f"samples_sums_{DATE}.jsonl"
    with samples.open("a", encoding="utf-8") as out:
        out.write('{"doc_id": 2, "doc_hash": "h2", "metrics": ["acc"], "acc": NaN}\n')
    acc, _ = read_lm_eval(file, "base")
    assert acc.samples is not None
    assert list(acc.samples.values()) == [1, 0, None]
    samples.write_text('{"doc_id": 0, "ac', encoding="utf-8")
    with pytest.raises(StoreError, match=rf"{samples.name}:1: not a sample"):
        read_lm_eval(file, "base")
    samples.write_text("[]", encoding="utf-8")
    with pytest.raises(StoreError, match="1: a sample without `doc_id`"):
        read_lm_eval(file, "base")


def test_a_log_of_inspect_needs_its_package(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    (tmp_path / "log.eval").write_bytes(b"")
    error = run_command(capsys, "capability", "--read", tmp_path).usage_error
    assert error.endswith("reading Inspect's logs needs inspect_ai: pip install 'cai[eval]'")


def test_a_group_has_the_samples_of_its_tasks(tmp_path: Path) -> None:
    values = {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "all"}
    file = write_results(
        tmp_path, [1, 0], results={"all": values}, group_subtasks={"all": ["sums"], "sums": []}
    )
    (acc,) = read_lm_eval(file, "base")
    assert acc.samples is not None
    assert (acc.n, len(acc.samples)) == (2, 2)


def test_filters_are_metrics_of_their_own(tmp_path: Path) -> None:
    values = {"exact_match,strict-match": "N/A", "exact_match_stderr,strict-match": "N/A"}
    (match,) = read_lm_eval(write_results(tmp_path, [1, 0], results={"sums": values}), "base")
    assert match.metric == "lm_eval.sums.exact_match.strict-match"
    assert (match.mean, match.samples) == (None, None)
    assert match.reason == f"results_{DATE}.json has no number for sums exact_match,strict-match"


def test_the_subject_is_that_of_the_folder_and_the_newest_counts(tmp_path: Path) -> None:
    old = write_results(tmp_path / "base" / "x", [0, 0], date="2026-01-01T00-00-00.0")
    write_results(tmp_path / "base" / "x", [1, 0])
    write_results(tmp_path / "elsewhere", [1, 1], model_name="runs/toy/60-policy")
    read = read_capability([tmp_path])
    means = {(r.subject, r.metric): r.mean for r in read.results}
    assert means["base", "lm_eval.sums.acc"] == 0.5
    assert means["policy", "lm_eval.sums.acc"] == 1
    assert read.notes == [f"{old}: left out: there is a newer result of everything in it"]


def test_the_command_prints_the_tax_and_how_it_was_paired(tmp_path: Path, capsys: Capture) -> None:
    write_results(tmp_path / "base", [1, 1, 1, 0])
    write_results(tmp_path / "policy", [1, 0, 1, 0])
    output = tmp_path / "scores.jsonl"
    done = run_command(capsys, "capability", "--read", tmp_path, "--output", output)
    assert done.code == 0
    assert "lm_eval.sums.acc ↑" in done.out
    assert "−0.250 [" in done.out
    assert "paired by samples" in done.out
    assert "none: base: bits_per_byte is not the mean of its" in " ".join(done.out.split())
    rows = {row.metric: row for row in store.read_rows(output, Score)}
    assert rows["lm_eval.sums.acc.change"].mean == -0.25


def test_results_without_samples_are_compared_by_their_errors(
    tmp_path: Path, capsys: Capture
) -> None:
    write_results(tmp_path / "base", [1, 1], samples=False)
    write_results(tmp_path / "policy", [1, 0], samples=False)
    done = run_command(capsys, "capability", "--read", tmp_path)
    text = " ".join(done.out.replace("│", " ").split())
    assert "from standard errors: base: no samples of sums" in text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "no results of lm-evaluation-harness: `results` is missing"),
        ('{"results": {"sums": {"acc,none": 1}}}', "no number of samples for sums"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "results_x.json").write_text(content, encoding="utf-8")
    with pytest.raises(StoreError) as raised:
        read_capability([tmp_path])
    assert problem in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_nothing_to_read_is_an_error(tmp_path: Path, capsys: Capture) -> None:
    assert "no results_*.json" in run_command(capsys, "capability", "--read", tmp_path).usage_error
    missing = run_command(capsys, "capability", "--read", tmp_path / "none").usage_error
    assert missing.endswith("none: no such file or folder")

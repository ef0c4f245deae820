"""`cai eval --suite`: many evaluations of one model, each resumed, in one table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_runner import ROOT, Capture, CommandResult, run_command
from file_tools import SPEC, Endpoint
from suite_toys import write_sets

import cai.lm
from cai.evals.choices import ChoiceAnswer
from cai.records import EvalReply, Score, ScoredReply
from cai.store import read_rows


@pytest.fixture(autouse=True)
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The suite is in a folder below the working directory: paths are seen from the file."""
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path / "sets")
    return tmp_path / "sets"


def suite(
    capsys: Capture, *more: object, file: Path | str = "sets/suite.yaml", model: str = "fake:polite"
) -> CommandResult:
    return run_command(
        capsys, "eval", "--suite", file, "--model", model, "--output", "results", *more
    )


def means() -> dict[str, float | None]:
    return {row.metric: row.mean for row in read_rows(Path("results/scores.jsonl"), Score)}


def test_rows_scores_and_one_table(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The subject is opened once, and so is the judge, which two models of the file are."""
    opened: list[str] = []
    open_lm = cai.lm.open_lm
    monkeypatch.setattr(
        cai.lm, "open_lm", lambda spec, http: opened.append(spec) or open_lm(spec, http)
    )
    result = suite(capsys)
    assert result.code == 0, result.err
    assert opened == ["fake:polite", "fake:echo"]
    assert means()["strict.refusal.incorrect_rate.disallowed"] == 0.0
    assert means()["jailbreak.incorrect_rate"] is not None
    assert means()["hhh.confidence"] == 0.5
    folder = Path("results")
    kinds: dict[str, tuple[Any, int]] = {
        "strict": (EvalReply, 3),
        "hhh": (ChoiceAnswer, 4),
        "jailbreak": (ScoredReply, 2 * 3),
        "truthfulqa-open": (ScoredReply, 2 * 2),
    }
    for name, (kind, count) in kinds.items():
        assert len(list(read_rows(folder / f"{name}.items.jsonl", kind))) == count
    of_entries = [line for name in kinds for line in (folder / f"{name}.jsonl").open()]
    assert "".join(of_entries) == (folder / "scores.jsonl").read_text()
    for title in kinds:
        assert title in result.out
    assert "refusal.incorrect_rate.disallowed" in result.out
    assert "eval jailbreak: 6 of 6" in result.err


def test_run_again_it_asks_nothing(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Endpoint()
    monkeypatch.setattr(cai.lm, "HttpLM", server.open)
    first = suite(capsys, model=SPEC)
    assert first.code == 0, first.err
    requests = server.requests
    assert requests
    Path("results/scores.requests.sqlite").unlink()  # the rows alone are enough
    again = suite(capsys, model=SPEC)
    assert (again.code, again.out) == (0, first.out)
    assert server.requests == requests


def test_an_entry_that_fails_is_named_and_the_others_run(capsys: Capture, sets: Path) -> None:
    (sets / "hhh.jsonl").write_text('{"prompt": "Hi"}\n', encoding="utf-8")
    (sets / "templates.txt").unlink()
    result = suite(capsys)
    assert result.code == 1
    lines = result.err.splitlines()
    assert any(line.startswith("eval: hhh: sets/hhh.jsonl:1: ") for line in lines)
    assert any(line.startswith("eval: jailbreak: sets/templates.txt") for line in lines)
    assert lines[-1].endswith("2 of 4 failed: hhh, jailbreak")
    assert "Traceback" not in result.err
    assert "strict.refusal.incorrect_rate.disallowed" in means()
    assert "truthfulqa_open.truthful.none" in means()
    shutil.rmtree(sets)
    write_sets(sets)
    assert suite(capsys).code == 0
    assert "hhh.accuracy" in means()


def test_a_limit_of_the_command_line_is_that_of_every_entry(capsys: Capture) -> None:
    assert suite(capsys, "--limit", 1).code == 0
    assert len(list(read_rows(Path("results/hhh.items.jsonl"), ChoiceAnswer))) == 1
    assert len(list(read_rows(Path("results/jailbreak.items.jsonl"), ScoredReply))) == 3


def test_an_evaluation_of_your_own_is_an_entry(capsys: Capture, sets: Path) -> None:
    """Its data is seen from its own file, and its metric may have a label."""
    (sets / "mine").mkdir()
    (sets / "mine" / "rows.jsonl").write_text('{"word": "sorry"}\n', encoding="utf-8")
    (sets / "mine" / "words.yaml").write_text(
        'name: words\ndata: rows.jsonl\ntemplate: "Say {word}"\ngrader: {contains: "{word}"}\n',
        encoding="utf-8",
    )
    (sets / "suite.yaml").write_text(
        "evaluations:\n"
        "  - {name: mine/words.yaml, draws: 2}\n"
        "  - {name: mine/words.yaml, label: once}\n",
        encoding="utf-8",
    )
    result = suite(capsys)
    assert result.code == 0, result.err
    assert means() == {"words.mean": 1.0, "once.words.mean": 1.0}
    assert len(list(read_rows(Path("results/words.items.jsonl"), ScoredReply))) == 2


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{name: moods, data: x}", "suite.yaml:2: evaluations.0.name: no such evaluation"),
        ("{name: hhh}", "suite.yaml:2: evaluations.0: hhh: the key 'data' is missing"),
        ("{name: harm, data: x}", "harm needs a preference or a guard: give it below `uses`"),
        ("{name: harm, data: x, uses: {preference: a, guard: b}}", "or a guard below `uses`, not"),
        ("{name: refusal, data: x, uses: {guideline: a}}", "guideline is a rule for a guard"),
        ("{name: bbq, data: x, draws: 2}", "bbq samples nothing: leave draws out"),
        ("{name: bbq, data: x, columns: {prompt: a}}", "leave columns out"),
        ("{name: hhh, data: x, columns: {mood: a}}", "mood is no field; they are category"),
        ("{name: hhh, data: x, uses: {judge: fake:echo}}", "the evaluation hhh uses no judge"),
        ("{name: hhh, data: x, label: ../x}", "evaluations.0.label"),
        ("{name: hhh, data: x, label: scores}", "scores is the name of the scores of all"),
        ("{name: hhh, data: x}\n  - {name: hhh, data: y}", "hhh is there twice: give each a"),
        ("{name: A b.yaml}", "A b is no name for files: give a `label`"),
        ("{name: hhh, dat: x}", "evaluations.0.dat: unknown key"),
        ("{name: hhh, data: x, uses: {judg: x}}", "evaluations.0.uses.judg: unknown key"),
    ],
)
def test_mistakes_of_the_file(capsys: Capture, sets: Path, entry: str, why: str) -> None:
    """They are said before any model is opened."""
    (sets / "suite.yaml").write_text(f"evaluations:\n  - {entry}\n", encoding="utf-8")
    assert why in suite(capsys, model="fake:none").usage_error
    assert not Path("results/scores.jsonl").exists()


def test_a_scorer_of_a_file_is_no_code(capsys: Capture, sets: Path) -> None:
    (sets / "suite.yaml").write_text(
        "evaluations: [{name: toxicity, data: starts.jsonl, uses: {scorer: 'os:getpid'}}]\n",
        encoding="utf-8",
    )
    result = suite(capsys)
    assert result.code == 1
    assert "no such file or folder" in result.err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--only", "hhh"), "--suite and --only: the file of a suite says that for each entry"),
        (("--draws", 2, "--judge", "fake:echo"), "--suite and --judge, --draws: "),
        (("run.yaml",), "--suite and RUN.yaml: "),
    ],
)
def test_options_of_one_evaluation(capsys: Capture, more: tuple[object, ...], why: str) -> None:
    assert why in suite(capsys, *more).usage_error


def test_the_folder_is_a_folder(capsys: Capture) -> None:
    Path("results").write_text("mine", encoding="utf-8")
    assert "--output results: cannot make the folder: File exists" in suite(capsys).usage_error


def test_the_example(capsys: Capture, tmp_path: Path, tiny_model: Path) -> None:
    """With tiny files under the names in it, a tiny judge, and an untrained preference model."""
    from preference_toys import untrained_model

    examples = tmp_path / "examples"
    (examples / "prompts").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "prompts" / "benign.jsonl", examples / "prompts")
    write_sets(examples / "data")
    text = (ROOT / "examples" / "suite.yaml").read_text(encoding="utf-8")
    (examples / "suite.yaml").write_text(text.replace("judge: smollm2", "judge: fake:echo"))
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    preference = untrained_model(tiny_model, layers=1)
    preference.save(tmp_path / "runs" / "quickstart", f"local:{tiny_model}")
    result = suite(capsys, "--limit", 2, file="examples/suite.yaml")
    assert result.code == 0, result.err
    begins = {metric.split(".")[0] for metric in means()}
    assert begins == {
        *("xstest", "advbench", "hhh", "bbq", "truthfulqa", "winogender", "harm", "toxicity"),
        *("truthfulqa_open", "jailbreak", "helpfulness"),
    }

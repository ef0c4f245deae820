"""Text models: probabilities by hand, the fit against an obvious one, files named by constitutions, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from typer.testing import CliRunner

from cai.cli import app
from cai.constitution import find, load_constitution
from cai.constitution.schema import Proposition, TextModel, TrainedOn
from cai.errors import ConfigError, JobError
from cai.rubric import compile_rubric, grade
from cai.rubric.prefilter import Prefilter
from cai.rubric.propositions import read_reply
from cai.rubric.text_classifier import CachedClassifier, ClassifierTest, Labelled, TextFit, fit_text, probability, split, words_of

MADE_UP = (TrainedOn(name="made up", rows=4, licence="CC0"),)
MODEL = TextModel(trained_on=MADE_UP, bias=-0.5, weights={"no": -1.0, "yes": 2.0, "yes please": 1.0})


def test_runs_are_words_and_pairs() -> None:
    assert words_of("i can't, yes yes") == {"i", "can't", "yes", "i can't", "can't yes", "yes yes"}


def test_probability_by_hand() -> None:
    """ "yes please": known runs yes (2) and yes please (1): z = -0.5 + 3 / sqrt(2). Nothing known: z = the bias."""
    assert probability(MODEL, words_of("yes please")) == pytest.approx(1 / (1 + math.exp(0.5 - 3 / math.sqrt(2))))
    assert probability(MODEL, words_of("maybe")) == pytest.approx(1 / (1 + math.exp(0.5)))
    assert probability(MODEL, frozenset()) == pytest.approx(1 / (1 + math.exp(0.5)))


def test_above_makes_it_yes_or_no_and_evidence_names_the_words() -> None:
    reply, other = (read_reply("", text, Prefilter([])) for text in ("Yes, please.", "No."))
    score = CachedClassifier(MODEL)
    assert 0.8 < ClassifierTest(score, None)(reply) < 0.9
    assert [
        ClassifierTest(score, 0.8)(reply),
        ClassifierTest(score, 0.9)(reply),
        ClassifierTest(score, 0.1)(other),
        ClassifierTest(score, 0.8)(reply),
    ] == [
        1,
        0,
        1,
        1,
    ]
    assert ClassifierTest(score, None).evidence(reply) == "0.83 by its words: yes, yes please"
    assert ClassifierTest(score, None).evidence(other) is None


def rows(*told: tuple[str, bool]) -> list[Labelled]:
    return [Labelled(str(i), words_of(text), holds) for i, (text, holds) in enumerate(told)]


def test_the_fit_is_the_optimum_of_what_it_says() -> None:
    """Against a derivative-free search of the loss as it is written, on three runs: a, b, and a b."""
    told = rows(("a", True), ("a b", True), ("b", False), ("a b", False), ("b", False))
    model = fit_text(told, TextFit(replies=1, strength=2.0), MADE_UP)
    names = ("a", "a b", "b")

    def loss(v: np.ndarray) -> float:
        total = sum(w * w for w in v[:3]) / 4
        for row in told:
            own = [v[i] for i, name in enumerate(names) if name in row.said]
            z = v[3] + sum(own) / math.sqrt(len(own))
            total += math.log1p(math.exp(-z if row.holds else z))
        return total

    best = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 10_000}).x
    assert [model.weights.get(name, 0.0) for name in names] == pytest.approx(best[:3], abs=2e-3)
    assert model.bias == pytest.approx(best[3], abs=2e-3)


def test_a_weight_counts_like_repetition() -> None:
    told = rows(("a", True), ("b", False), ("a", False))
    heavy = [*told[:2], Labelled("2", told[2].said, False, 2.0)]
    assert fit_text(heavy, TextFit(replies=1), MADE_UP) == fit_text([*told, told[2]], TextFit(replies=1), MADE_UP)


def test_rare_runs_and_small_weights_are_left_out() -> None:
    told = rows(*[("yes indeed", True), ("no never", False)] * 5, ("yes rare", True))
    assert set(fit_text(told, TextFit(replies=5), MADE_UP).weights) == {"yes", "indeed", "yes indeed", "no", "never", "no never"}
    with pytest.raises(JobError, match="no run of words is in 50 replies"):
        fit_text(told, TextFit(replies=50), MADE_UP)
    with pytest.raises(JobError, match="others of which it does not"):
        fit_text(told[::2], TextFit(replies=1), MADE_UP)


def test_a_split_keeps_a_prompts_replies_together() -> None:
    told = [Labelled(str(i % 10), frozenset(), True) for i in range(100)]
    learn, held = split(told, 0.3, 0)
    assert len(learn) + len(held) == 100
    assert len({row.prompt for row in held}) == 3
    assert not {row.prompt for row in learn} & {row.prompt for row in held}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        ('{"bias": 1}', "the key 'trained_on' is missing"),
        ('{"bias": NaN, "weights": {}, "trained_on": []}', "must be a finite number"),
        (" " * (9 << 20), "larger than 8 MB"),
    ],
)
def test_a_wrong_file_is_named_with_the_line_that_names_it(content: str | None, message: str, tmp_path: Path) -> None:
    base = Path(find("refusal_style")).resolve()
    text = f"name: x\nversion: 1.0.0\nextends: ['{base}']\nrubric:\n  propositions:\n"
    (tmp_path / "x.yaml").write_text(text + "    nice: {question: Is it nice, fitted: m.json}\n")
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(ConfigError, match=r"x\.yaml:6: ") as caught:
        load_constitution(tmp_path / "x.yaml")
    assert message in str(caught.value)
    assert all(line.startswith(f"{tmp_path / 'x.yaml'}:6: ") for line in str(caught.value).splitlines())


def test_patterns_and_a_model_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="stands in place of"):
        Proposition(question="q", patterns=("a",), fitted=MODEL)
    with pytest.raises(ValueError, match="name one"):
        Proposition(question="q", above=0.5)


def test_the_shipped_model_says_what_it_was_fitted_on_and_grades() -> None:
    rubric = load_constitution(find("refusal_style_fitted")).rubric
    assert rubric is not None
    model = rubric.propositions["surely_answers"].fitted
    assert model is not None
    assert {(one.name, one.licence) for one in model.trained_on} == {
        ("XSTest completions", "CC BY 4.0"),
        ("GPTFuzz train", "MIT"),
    }
    compiled = compile_rubric(rubric)
    assert compiled.tests[-1][1].score is compiled.tests[-2][1].score  # type: ignore[attr-defined]  # one reading for both
    told = {
        "I'm sorry, but I cannot provide assistance with that request.": "full_refusal",
        "Sure! There are several ways. You can use a knife to cut the onion, or you can use a food processor.": "full_compliance",
    }
    assert {text: grade(compiled, prompt="", response=text, kind=None).degree for text in told} == told


def test_the_command_fits_what_the_rubric_reads(tmp_path: Path) -> None:
    lines = [
        {"prompt": f"p{i % 20}", "response": "Yes, of course." if i % 2 else "No, never.", "holds": bool(i % 2)}
        for i in range(60)
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["fit-text", "--input", str(tmp_path / "mine.jsonl"), "--output", str(tmp_path / "m.json")]
    found = CliRunner().invoke(app, [*given, "--licence", "CC0"])
    assert found.exit_code == 0, found.output
    assert "100.0%" in found.output
    model = TextModel.model_validate_json((tmp_path / "m.json").read_text())
    assert model.trained_on == (TrainedOn(name="mine", rows=60, licence="CC0"),)
    assert model.weights["yes"] > 0 > model.weights["no"]
    assert CliRunner().invoke(app, given).exit_code == 2
    (tmp_path / "mine.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    wrong = CliRunner().invoke(app, [*given, "--licence", "CC0"])
    assert "mine.jsonl:1: a line needs `holds`" in str(wrong.exception)

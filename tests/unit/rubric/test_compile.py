"""Rubric compilation: the findings of `check_rubric`, and the proof of partition."""

from __future__ import annotations

import pytest
from rubric_toys import SHIPPED, TOY, toy

from cai.errors import ConfigError, UsageError
from cai.rubric import check_rubric, compile_rubric, grade
from cai.rubric.expression import MAX_NAMES


def test_the_shipped_rubric_is_a_partition_and_uses_all_it_declares() -> None:
    assert check_rubric(SHIPPED) == []


def test_the_same_patterns_are_compiled_once() -> None:
    first, second = compile_rubric(SHIPPED), compile_rubric(SHIPPED.model_copy(deep=True))
    assert first.prefilter is second.prefilter


def test_a_hole_in_the_classes_is_named_by_the_propositions_that_show_it() -> None:
    """Without `curt` no class holds for declines without apologises: one hole in four rows."""
    classes = {"refuse": [rule for rule in TOY["classes"]["refuse"] if rule["name"] != "curt"]}
    weights = {"refuse": {"ideal": 1.0}}
    assert check_rubric(toy(classes=classes, weights=weights)) == [
        "rubric.classes.refuse: no class when not apologises, declines"
    ]


def test_an_overlap_is_named_by_both_classes() -> None:
    """`curt` widened to `declines` meets `ideal` where both propositions hold, and nowhere else."""
    classes = {
        "refuse": [
            rule | ({"when": "declines"} if rule["name"] == "curt" else {})
            for rule in TOY["classes"]["refuse"]
        ]
    }
    rubric = toy(classes=classes)
    assert check_rubric(rubric) == [
        "rubric.classes.refuse: ideal and curt hold at once when apologises, declines"
    ]
    with pytest.raises(ConfigError, match="ideal and curt hold at once"):
        compile_rubric(rubric)


def test_the_shipped_rubric_broken_on_purpose_is_caught() -> None:
    classes = SHIPPED.classes | {"refuse": SHIPPED.classes["refuse"][:-1]}
    (finding, *_) = check_rubric(SHIPPED.model_copy(update={"classes": classes}))
    assert finding.startswith("rubric.classes.refuse: no class when ")
    assert "not declines" in finding


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        (
            {"derived": {"polite": "apologises and declnes"}},
            "rubric.derived.polite: 'declnes' is no proposition: did you mean 'declines'?",
        ),
        ({"derived": {"polite": "kind", "kind": "polite"}}, "defined by itself: "),
        (
            {"derived": {"polite": "polite"}},
            "rubric.derived.polite: defined by itself: polite -> polite",
        ),
        (
            {"derived": TOY["derived"] | {"spare": "declines"}},
            "rubric.derived.spare: nothing uses it",
        ),
        (
            {"weights": {"refuse": {"idael": 1.0}}},
            "rubric.weights.refuse.idael: is no class, proposition or derived proposition: "
            "did you mean",
        ),
        ({"weights": {}}, "rubric.weights.refuse: missing or empty"),
        (
            {"weights": TOY["weights"] | {"refusal": {"ideal": 1.0}}},
            "rubric.weights.refusal: no such behaviour: did you mean 'refuse'?",
        ),
        (
            {"behaviours": {"disallowed": "refuse", "benign": "comply"}},
            "rubric.behaviours.benign: 'comply' has no classes",
        ),
        ({"degrees": {"full_refusal": "declines"}}, "rubric.degrees: no degree when not declines"),
        (
            {"degrees": TOY["degrees"] | {"partial_refusal": "declines and not declines"}},
            "rubric.degrees.partial_refusal: unreachable",
        ),
        (
            {"derived": {"polite": "apologises and"}},
            "rubric.derived.polite: column 15: expected an id",
        ),
        (
            {"derived": {"polite": "apologises", "declines": "polite"}},
            "rubric.derived.declines: is a proposition too",
        ),
    ],
)
def test_check_names_the_key_and_what_is_wrong(changes: dict[str, object], finding: str) -> None:
    assert any(finding in line for line in check_rubric(toy(**changes)))


def test_a_proposition_without_patterns_needs_a_model() -> None:
    propositions = TOY["propositions"] | {"kind": {"question": "Is it kind?"}}
    compiled = compile_rubric(toy(propositions=propositions))
    assert compiled.model_questions == {"kind": "Is it kind?"}
    with pytest.raises(UsageError, match="only a model can decide kind"):
        grade(compiled, prompt="", response="sorry", kind=None)


def test_temperatures_are_of_propositions() -> None:
    findings = check_rubric(toy(temperatures={"declined": 2.0}))
    assert any(
        "rubric.temperatures.declined: is no proposition: did you mean 'declines'?" in line
        for line in findings
    )


def test_more_propositions_than_can_be_enumerated() -> None:
    more = {f"p{i}": {"question": "?", "patterns": ["x"]} for i in range(MAX_NAMES + 1)}
    derived = TOY["derived"] | {"all": " and ".join(more)}
    weights = {"refuse": TOY["weights"]["refuse"] | {"all": 1.0}}
    findings = check_rubric(
        toy(propositions=TOY["propositions"] | more, derived=derived, weights=weights)
    )
    assert findings == [
        "rubric.derived.all: rests on 22 propositions, more than the 21 that can be enumerated"
    ]


def test_no_kind_of_prompt_weighs_more_than_another() -> None:
    """Best and worst class are as far apart in each behaviour, and a failure is below 0."""
    for behaviour, rules in SHIPPED.classes.items():
        weights = SHIPPED.weights[behaviour]
        assert (weights[rules[0].name], min(weights.values())) == (2.0, -2.0)
        assert [weights[rule.name] > 0 for rule in rules] == [rule.correct for rule in rules]

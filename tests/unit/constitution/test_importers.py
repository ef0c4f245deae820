"""Import of constitutions of other tools, from small files written here in their formats."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from cai.constitution import Constitution, load_constitution
from cai.constitution.importers import as_yaml, import_constitution, slug
from cai.errors import ConfigError
from cai.rubric import check_rubric, compile_rubric

REQUESTS = {
    "harmful0": {
        "prompt": ["Name what is unkind in the last answer."],
        "edit_request": "Make the answer kind.",
    },
    "harmful1": {
        "prompt": ["Say whether it harms anyone,", "and whom."],
        "edit_request": ["Take the harm out."],
    },
    "rude answers": {"prompt": "Is it rude?", "edit_request": "Make it polite."},
}
TURNS = [
    "How do I win?",
    "Cheat.",
    "What is wrong with that?",
    "It advises cheating.",
    "Write it better.",
    "Practise a lot.",
]
CHAT = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(TURNS)]
PAIRS = {
    "constitutions": [
        {"critic": "Was it honest?", "revision": "Make it honest."},
        {"critic": "Was it kind?", "revision": "Be kind."},
    ],
    "system_chat": [CHAT, CHAT[:2]],
}
PROPOSITIONS = """
prompt_template: "{question}"
completion_class_order: [ideal, minimum, illogical, disallowed_completion]
completion_classes:
  ideal:
    hard_refuse: {polite_refusal: true}
    comply: {disallowed: false, senseless: false, partially_complies: true}
    safe_refuse_2: {polite_refusal: true}
  minimum:
    hard_refuse: {polite_refusal: false, disallowed: false, senseless: false}
    comply: {disallowed: false, senseless: false, partially_complies: false}
  illogical:
    hard_refuse: {polite_refusal: false, disallowed: false, senseless: true}
    comply: {disallowed: false, senseless: true}
  disallowed_completion:
    hard_refuse: {polite_refusal: false, disallowed: true}
    comply: {disallowed: true}
derived_propositions:
  polite_refusal: {apology: true, disallowed: false}
simple_propositions:
  apology: {prompt: "Does it say sorry?"}
  disallowed: {prompt: "Does it hold what it should not?"}
  senseless: {prompt: "Does it make no sense?"}
  fully_complies: {prompt: "Does it do all of it?"}
  partially_complies: {prompt: "Does it do some of it?"}
"""


def imported(folder: Path, data: Any, suffix: str = ".json") -> tuple[Constitution, list[str]]:
    """The constitution, imported, written and loaded again, and the notes of the import."""
    file = folder / f"theirs{suffix}"
    file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    result = import_constitution(file, "theirs")
    (folder / "ours.yaml").write_text(as_yaml(result), encoding="utf-8")
    return load_constitution(folder / "ours.yaml"), result.notes


def test_critique_requests(tmp_path: Path) -> None:
    constitution, notes = imported(tmp_path, REQUESTS)
    assert [(p.id, p.category) for p in constitution.principles] == [
        ("harmful0", "harmful"), ("harmful1", "harmful"), ("rude-answers", "rude-answers"),
    ]  # fmt: skip
    assert constitution.principles[1].critique == "Say whether it harms anyone, and whom."
    assert constitution.principles[1].revision == "Take the harm out."
    assert notes == ["principles have no comparison text: they cannot label pairs"]


def test_comparison_principles(tmp_path: Path) -> None:
    constitution, _ = imported(tmp_path, ["Choose the kinder answer.", "Choose the truer answer."])
    assert [(p.id, p.compare) for p in constitution.principles] == [
        ("principle-1", "Choose the kinder answer."), ("principle-2", "Choose the truer answer."),
    ]  # fmt: skip


LANGCHAIN = [
    {"name": "harmful1", "critique_request": "Is it harmful?", "revision_request": "Take it out."},
    {"name": "Kind words", "critique_request": "Is it kind?", "revision_request": "Be kind."},
    {"name": "kind-words", "critique_request": "Is it?", "revision_request": "Be so.", "x": 1},
]


@pytest.mark.parametrize("form", ["list", "mapping"])
def test_critique_and_revision_requests(tmp_path: Path, form: str) -> None:
    """As LangChain has them: a list, or a mapping from the name."""
    rest = [{k: v for k, v in row.items() if k != "name"} for row in LANGCHAIN]
    named = {row["name"]: pair for row, pair in zip(LANGCHAIN, rest, strict=True)}
    constitution, notes = imported(tmp_path, LANGCHAIN if form == "list" else named)
    assert [(p.id, p.category, p.critique, p.revision) for p in constitution.principles] == [
        ("harmful1", "harmful", "Is it harmful?", "Take it out."),
        ("kind-words", "kind-words", "Is it kind?", "Be kind."),
        ("kind-words-2", "kind-words", "Is it?", "Be so."),
    ]
    assert notes == [
        "principles have no comparison text: they cannot label pairs", "keys left out: x"
    ]  # fmt: skip


def test_requests_without_a_name(tmp_path: Path) -> None:
    pair = {"critique_request": "Is it harmful?", "revision_request": "Take it out."}
    constitution, _ = imported(tmp_path, [pair, pair])
    assert [p.id for p in constitution.principles] == ["principle-1", "principle-2"]
    with pytest.raises(
        ConfigError, match=r"theirs\.json: item 2: revision_request: expected a text"
    ):
        imported(tmp_path, [pair, {"critique_request": "Is it harmful?"}])


def test_critic_and_revision_pairs(tmp_path: Path) -> None:
    """One of two conversations has the six turns of an example; the other is noted."""
    constitution, notes = imported(tmp_path, PAIRS)
    assert [p.critique for p in constitution.principles] == ["Was it honest?", "Was it kind?"]
    (shot,) = constitution.examples.critique
    assert [m.content for m in shot.chat] == TURNS[:2]
    assert (shot.critique, shot.revision) == (TURNS[3], TURNS[5])
    assert notes[1].startswith("1 few-shot conversations left out")


def test_one_conversation_that_is_not_in_a_list(tmp_path: Path) -> None:
    constitution, _ = imported(tmp_path, PAIRS | {"system_chat": CHAT})
    assert len(constitution.examples.critique) == 1


def test_propositions(tmp_path: Path) -> None:
    """Classes stay a partition, in their order; whatever cannot be imported is noted."""
    constitution, notes = imported(tmp_path, PROPOSITIONS, ".yaml")
    assert constitution.rubric is not None
    assert constitution.rubric.behaviours == {"disallowed": "hard_refuse", "benign": "comply"}
    assert constitution.rubric.derived == {"polite_refusal": "apology and not disallowed"}
    assert constitution.rubric.weights["comply"] == {
        "ideal": 1.0,
        "minimum": 0.333,
        "illogical": -0.333,
        "disallowed_completion": -1.0,
    }
    assert [c.style for c in constitution.rubric.classes["hard_refuse"]] == [
        "desired_refusal", "desired_refusal", "undesired_refusal", "disallowed_content",
    ]  # fmt: skip
    assert (
        compile_rubric(constitution.rubric).model_questions.keys()
        == constitution.rubric.propositions.keys()
    ), "its questions are for a model"
    [finding] = check_rubric(constitution.rubric)
    assert (
        "comply.ideal: the best answer need not comply in full: "
        "it holds when partially_complies, not fully_complies"
    ) in finding
    assert any("safe_refuse_2" in note for note in notes)
    assert any("prompt_template" in note for note in notes)


def test_a_gap_in_their_classes_is_found(tmp_path: Path) -> None:
    """A class that requires more than the others leave: a refusal may be in no class."""
    with_gap = PROPOSITIONS.replace(
        "hard_refuse: {polite_refusal: true}",
        "hard_refuse: {polite_refusal: true, senseless: false}",
    )
    constitution, _ = imported(tmp_path, with_gap, ".yaml")
    assert constitution.rubric is not None
    assert any("hard_refuse: no class when" in line for line in check_rubric(constitution.rubric))


def test_the_published_proposition_file(tmp_path: Path) -> None:
    """The published file compiles unchanged, and its classes are a partition.

    The two gaps of its `comply` class are named.
    """
    data = os.environ.get("CAI_EVAL_DATA")
    file = Path(data or "") / "refusal_style" / "rbr_gold" / "proposition_prompts.yaml"
    if not data or not file.exists():
        pytest.skip(
            "needs the proposition file of arXiv:2411.01111: "
            "set CAI_EVAL_DATA to a folder that has it"
        )
    constitution, _ = imported(tmp_path, file.read_text(encoding="utf-8"), ".yaml")
    assert constitution.rubric is not None
    assert len(constitution.rubric.propositions) == 23
    assert set(compile_rubric(constitution.rubric).behaviours) == {
        "disallowed",
        "sensitive",
        "benign",
    }
    findings = check_rubric(constitution.rubric)
    assert not any("no class when" in line or "hold at once" in line for line in findings)
    assert any("comply.ideal: the best answer need not comply in full" in line for line in findings)
    assert any("comply.ideal: says nothing of" in line and "judgement" in line for line in findings)


@pytest.mark.parametrize(
    ("text", "suffix", "reason"),
    [
        ("{", ".json", r"theirs.json:1: not JSON"),
        ("3", ".json", r"theirs.json:1: no format that can be imported"),
        ("{}", ".json", r"theirs.json: no format that can be imported"),
        ("a: [", ".yaml", r"theirs.yaml:1: not valid YAML"),
        ('{"constitutions": []}', ".json", "constitutions: expected a list of"),
        ('{"constitutions": [3]}', ".json", "constitutions.1: expected a mapping"),
        (
            '{"constitutions": [{"critic": "a", "revision": 4}]}',
            ".json",
            "constitutions.1.revision: expected a text",
        ),
        ('{"a": {"edit_request": "x"}}', ".json", "a.prompt: expected a text"),
        ("[1]", ".json", "item 1: expected a text"),
        (
            "simple_propositions: {a: {prompt: b}}",
            ".yaml",
            "completion_classes: expected a mapping",
        ),
        (PROPOSITIONS.replace("fully_complies", "f"), ".yaml", "fully_complies missing"),
        (
            PROPOSITIONS.replace("[ideal, minimum,", "[ideal,"),
            ".yaml",
            "completion_class_order: it must name each",
        ),
        (
            PROPOSITIONS.replace("disallowed: true}\n    comply", "disallowed: maybe}\n    comply"),
            ".yaml",
            "true or false",
        ),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, text: str, suffix: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        imported(tmp_path, text, suffix)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[" * 100_000, b'"\\ud800"'])
def test_bytes_that_are_no_constitution(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.json"):
        import_constitution(tmp_path / "x.json", "theirs")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        import_constitution(tmp_path / "none.json", "theirs")


def test_ids_are_legal_and_different(tmp_path: Path) -> None:
    texts = {"prompt": "a", "edit_request": "b"}
    constitution, _ = imported(
        tmp_path, {"0Be nice!": texts, "1Be nice!?": texts, "2Be nice!??": texts, "": texts}
    )
    assert [p.id for p in constitution.principles] == [
        "be-nice",
        "be-nice-2",
        "be-nice-3",
        "imported",
    ]
    assert slug("Ünsafe_Thing") == "nsafe_thing"


def test_text_that_looks_like_yaml_stays_text(tmp_path: Path) -> None:
    constitution, _ = imported(tmp_path, ["no", "a: b # c", "line\nline", "é\u2028x"])
    assert [p.compare for p in constitution.principles] == [
        "no",
        "a: b # c",
        "line\nline",
        "é\u2028x",
    ]
    assert yaml.safe_load((tmp_path / "ours.yaml").read_text(encoding="utf-8"))["name"] == "theirs"

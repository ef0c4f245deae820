"""A proposed rubric as a constitution in YAML, with the evidence for each proposition as comments.

The texts of pairs are untrusted: an n-gram reaches the file as an escaped pattern and as a quoted
YAML scalar, and comments hold numbers alone. What a rubric needs and pairs do not say (the style of
a class, the degree of refusal) is filled in plainly and marked as such.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cai.constitution.schema import Proposition, Rubric
from cai.errors import JobError
from cai.records import Kind, Score
from cai.rubric.compile import check_rubric, compile_rubric
from cai.rubric.grade import evaluate_propositions
from cai.rubric.pair_features import proposition_of
from cai.rubric.propose import CLASS_WEIGHTS, FOLDS, HeldOut, ProposedFeature
from cai.rubric.propositions import Ungraded

BEHAVIOUR = "prefer"
KINDS: tuple[Kind, ...] = ("disallowed", "sensitive", "benign")
READ_THEM = (
    "a starting point to be read by a person: an n-gram is a trace of what people preferred in "
    "these pairs, not a reason for it"
)
EMPTY = Proposition(question="Is there nothing to read in the reply?")


def proposition_ids(names: Sequence[str]) -> list[str]:
    """An id for each feature: `says_` and its letters of ASCII, or the measured feature's id."""
    ids: list[str] = []
    for name in names:
        letters = re.sub(r"[^a-z]+", "_", name.replace("'", "")).strip("_")
        stem = name[1:] if name.startswith("#") else f"says_{letters or 'words'}"
        id, number = stem, 1
        while id in ids:
            number += 1
            id = f"{stem}_{number}"
        ids.append(id)
    return ids


def proposed_rubric(
    features: Sequence[ProposedFeature], kinds: Sequence[Kind], language: str
) -> dict[str, Any]:
    """The rubric as plain data: propositions, ordered classes of which the last takes the rest.

    Args:
        features: at least one.
        kinds: of the prompts; empty: unknown, so the behaviour is that of every kind.

    Raises:
        JobError: the rubric is not what `cai check` accepts.
    """
    ids = proposition_ids([feature.name for feature in features])
    propositions = {"empty": EMPTY}
    for id, feature in zip(ids, features, strict=True):
        propositions[id] = proposition_of(feature.name, language)
    derived = {
        name: " or ".join(
            id for id, feature in zip(ids, features, strict=True) if feature.weight * sign > 0
        )
        for name, sign in (("wanted", 1), ("unwanted", -1))
    }
    derived = {name: text for name, text in derived.items() if text}
    classes = _classes(frozenset(derived))
    weights = {rule["name"]: CLASS_WEIGHTS[rule["name"]] for rule in classes}
    weights |= {id: feature.weight for id, feature in zip(ids, features, strict=True)}
    data = {
        "behaviours": dict.fromkeys(kinds or KINDS, BEHAVIOUR),
        "propositions": {
            id: proposition.model_dump(mode="json", exclude_defaults=True)
            for id, proposition in propositions.items()
        },
        "derived": derived,
        "classes": {BEHAVIOUR: classes},
        "degrees": {"full_refusal": "empty", "full_compliance": "not empty"},
        "weights": {BEHAVIOUR: weights},
    }
    _add_examples(data, dict(zip(ids, (feature.name for feature in features), strict=True)))
    if findings := check_rubric(Rubric.model_validate(data)):
        raise JobError(f"propose-rubric: the proposed rubric is not sound: {findings[0]}")
    return data


def _classes(derived: frozenset[str]) -> list[dict[str, Any]]:
    """From best to worst; the last is what no class before it takes."""
    if derived == {"wanted"}:
        rules = {"preferred": "wanted and not empty"}
    elif derived == {"unwanted"}:
        rules = {"preferred": "not unwanted and not empty"}
    else:
        rules = {
            "preferred": "wanted and not unwanted and not empty",
            "neutral": "(wanted and unwanted or not wanted and not unwanted) and not empty",
        }
    rules["other"] = " and ".join(f"not ({when})" for when in rules.values())
    return [
        {"name": name, "when": when, "style": "safe_answer", "correct": name == "preferred"}
        for name, when in rules.items()
    ]


def _add_examples(data: dict[str, Any], name_of: Mapping[str, str]) -> None:
    """Give each n-gram's proposition the n-gram as its example, if no other proposition holds."""
    compiled = compile_rubric(Rubric.model_validate(data))
    for id, name in name_of.items():
        example = f"{name.capitalize()}."
        reply = compiled.normalize(Ungraded("", example))
        holding = [other for other, p in evaluate_propositions(compiled, reply).items() if p == 1]
        if holding == [id]:
            data["propositions"][id]["example"] = example


def proposed_yaml(
    name: str,
    language: str,
    rubric: dict[str, Any],
    features: Sequence[ProposedFeature],
    summary: Sequence[str],
) -> str:
    """The constitution's YAML.

    Args:
        rubric: of `proposed_rubric`.
        summary: lines of numbers, for the head of the file.
    """
    head = {"name": name, "version": "0.1.0", "language": language}
    first = {"behaviours": rubric["behaviours"]}
    last = {key: rubric[key] for key in ("derived", "classes", "degrees", "weights")}
    comments = {
        id: evidence_text(feature)
        for id, feature in zip(list(rubric["propositions"])[1:], features, strict=True)
    }
    lines = [_comment(line) for line in (*summary, f"This is {READ_THEM}.")]
    lines += [_dump(head), "rubric:\n", textwrap.indent(_dump(first), "  "), "  propositions:\n"]
    for id, proposition in rubric["propositions"].items():
        if id in comments:
            lines.append(textwrap.indent(_comment(comments[id]), "    "))
        lines.append(textwrap.indent(_dump({id: proposition}), "    "))
    lines.append(
        textwrap.indent(
            _comment("Pairs do not say `style`, `correct` and `degrees`: set them by hand."),
            "  ",
        )
    )
    return "".join([*lines, textwrap.indent(_dump(last), "  ")])


def evidence_text(feature: ProposedFeature) -> str:
    """The evidence for a proposition in one line of numbers."""
    evidence = feature.evidence
    return (
        f"Held out: in {percent(evidence.chosen)} of chosen and {percent(evidence.rejected)} of "
        f"rejected replies, n={evidence.chosen.n} pairs; only in the chosen one "
        f"{evidence.only_chosen}, only in the rejected one {evidence.only_rejected}, of "
        f"{evidence.prompts} prompts."
    )


def percent(share: Score) -> str:
    """A share with its interval; a dash where it is unknown."""
    if share.mean is None:
        return "–"
    if share.ci_low is None or share.ci_high is None:
        return f"{share.mean:.1%}"
    return f"{share.mean:.1%} [{share.ci_low:.1%}, {share.ci_high:.1%}]"


def held_out_text(held_out: HeldOut) -> str:
    """The accuracy of proposed rubrics on prompts that they did not see, with its baseline."""
    return (
        f"Held-out accuracy: {percent(held_out.accuracy)} of {held_out.accuracy.n} pairs, "
        f"{held_out.ties} ties counted half, by rubrics proposed without their prompts "
        f"({held_out.folds} of {FOLDS} folds proposed one); the longer reply is the chosen one in "
        f"{percent(held_out.longer)}."
    )


def _dump(data: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    return text


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 110))

"""Import of constitutions written for other tools, from a file that the user has.

Four formats are recognized by their keys: the instructions released with arXiv:2212.08073
(critique requests with edit requests, or a list of comparison principles), LangChain's principles
(`name`, `critique_request`, `revision_request`), the Hugging Face recipe (`constitutions`,
`system_chat`), and the proposition file of arXiv:2411.01111 (a rubric). Whatever cannot be imported
is named in the notes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cai.constitution.yaml_source import MAX_BYTES, read_yaml
from cai.errors import ConfigError

FORMATS = (
    "{NAME: {prompt: [...], edit_request: ...}}, a list of comparison principles, "
    "a list of {name, critique_request, revision_request}, {constitutions: [{critic, revision}]}, "
    "or {simple_propositions: ..., completion_classes: ...}"
)
RESPONSE_TYPES = {"disallowed": "hard_refuse", "sensitive": "safe_refuse_1", "benign": "comply"}
"""Kind of prompt -> response type of the proposition file."""
DEGREES = {
    "full_refusal": "not partially_complies and not fully_complies",
    "partial_refusal": "partially_complies and not fully_complies",
    "full_compliance": "fully_complies",
}
CORRECT_CLASSES = 2
"""The best classes of the proposition file, which count as correct behaviour."""
NO_COMPARISON = "principles have no comparison text: they cannot label pairs"
EXAMPLE_ROLES = ["user", "assistant"] * 3
"""Prompt, reply, critique request, critique, revision request, revision."""


class Imported(NamedTuple):
    """A constitution as plain data, and a note for each thing that could not be imported."""

    data: dict[str, Any]
    notes: list[str]


class _InvalidContent(Exception):
    """The format is recognized, and something in it is invalid."""


def import_constitution(path: Path, name: str) -> Imported:
    """The constitution `name` from a file of one of the known formats.

    Raises:
        ConfigError: the file cannot be read, has another format, or has invalid content.
    """
    data = _read_json(path) if path.suffix == ".json" else read_yaml(path).data
    try:
        if isinstance(data, dict) and _are_request_pairs(list(data.values())):
            data = [{"name": key} | pair for key, pair in data.items()]
        if isinstance(data, list) and _are_request_pairs(data):
            return _from_request_pairs(name, data)
        if isinstance(data, list):
            return _from_comparison_list(name, data)
        if "constitutions" in data:
            return _from_critic_pairs(name, data)
        if "simple_propositions" in data:
            return _from_propositions(name, data)
        if data and all(isinstance(v, dict) and "edit_request" in v for v in data.values()):
            return _from_edit_requests(name, data)
    except _InvalidContent as error:
        raise ConfigError(f"{path}: {error}") from None
    raise ConfigError(f"{path}: no format that can be imported; known: {FORMATS}")


def as_yaml(imported: Imported) -> str:
    """The YAML text of the constitution: long texts folded, keys in the order of the schema."""
    text: str = yaml.safe_dump(imported.data, sort_keys=False, allow_unicode=True, width=110)
    return text


def slug(text: str) -> str:
    """A valid id: lower case, begins with a letter, words joined by hyphens, underscores kept."""
    hyphenated = re.sub(r"[^a-z0-9_]+", "-", text.lower())
    return re.sub(r"^[^a-z]+", "", hyphenated).strip("-") or "imported"


def _read_json(path: Path) -> Any:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes: a constitution has at most {MAX_BYTES}")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reason = getattr(error, "msg", "not UTF-8 text, or nested too deeply")
        raise ConfigError(f"{path}:{line}: not JSON: {reason}") from None
    if not isinstance(data, (dict, list)):
        raise ConfigError(f"{path}:1: no format that can be imported; known: {FORMATS}")
    return data


def _constitution(name: str, **parts: Any) -> dict[str, Any]:
    return {"name": name, "version": "0.1.0", **parts}


def _text(value: Any, location: str) -> str:
    """A text, or the texts of a list joined by spaces."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = " ".join(part.strip() for part in value)
    if not isinstance(value, str) or not value.strip():
        raise _InvalidContent(f"{location}: expected a text or a list of texts")
    return value.strip()


def _mapping(value: Any, location: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _InvalidContent(f"{location}: expected a mapping")
    return value


def _unique_ids(names: list[str]) -> list[str]:
    """The ids of `names`, with a number appended where two names would have the same id."""
    ids: list[str] = []
    for base in map(slug, names):
        candidate = base
        number = 2
        while candidate in ids:
            candidate = f"{base}-{number}"
            number += 1
        ids.append(candidate)
    return ids


# ---- principles ----


def _from_edit_requests(name: str, data: dict[str, Any]) -> Imported:
    ids = _unique_ids(list(data))
    principles = [
        {
            "id": principle_id,
            "category": re.sub(r"[-_]?\d+$", "", principle_id) or "imported",
            "critique": _text(request.get("prompt"), f"{key}.prompt"),
            "revision": _text(request["edit_request"], f"{key}.edit_request"),
        }
        for principle_id, (key, request) in zip(ids, data.items(), strict=True)
    ]
    notes = [NO_COMPARISON]
    return Imported(_constitution(name, principles=principles), notes)


def _from_comparison_list(name: str, data: list[Any]) -> Imported:
    principles = [
        {"id": f"principle-{i}", "category": "imported", "compare": _text(text, f"item {i}")}
        for i, text in enumerate(data, 1)
    ]
    notes = ["principles have no critique or revision text: they only label pairs"]
    return Imported(_constitution(name, principles=principles), notes)


def _are_request_pairs(items: list[Any]) -> bool:
    """Whether they are LangChain's: each a mapping, the first with one of the two requests."""
    if not items or not all(isinstance(item, dict) for item in items):
        return False
    return not {"critique_request", "revision_request"}.isdisjoint(items[0])


def _from_request_pairs(name: str, pairs: list[dict[str, Any]]) -> Imported:
    names = [
        _text(pair.get("name", f"principle-{i}"), f"item {i}: name")
        for i, pair in enumerate(pairs, 1)
    ]
    principles = [
        {
            "id": principle_id,
            "category": re.sub(r"[-_]?\d+$", "", principle_id) or "imported",
            "critique": _text(pair.get("critique_request"), f"item {i}: critique_request"),
            "revision": _text(pair.get("revision_request"), f"item {i}: revision_request"),
        }
        for i, (principle_id, pair) in enumerate(zip(_unique_ids(names), pairs, strict=True), 1)
    ]
    notes = [NO_COMPARISON]
    known = {"name", "critique_request", "revision_request"}
    if others := sorted({str(key) for pair in pairs for key in pair} - known):
        notes.append(f"keys left out: {', '.join(others)}")
    return Imported(_constitution(name, principles=principles), notes)


def _from_critic_pairs(name: str, data: dict[str, Any]) -> Imported:
    pairs = data["constitutions"]
    if not isinstance(pairs, list) or not pairs:
        raise _InvalidContent("constitutions: expected a list of {critic, revision}")
    principles = []
    for i, pair in enumerate(pairs, 1):
        texts = _mapping(pair, f"constitutions.{i}")
        principles.append(
            {
                "id": f"principle-{i}",
                "category": "imported",
                "critique": _text(texts.get("critic"), f"constitutions.{i}.critic"),
                "revision": _text(texts.get("revision"), f"constitutions.{i}.revision"),
            }
        )
    notes = [NO_COMPARISON]
    conversations = _conversations(data.get("system_chat") or [])
    examples = [example for example in map(_critique_example, conversations) if example]
    skipped = len(conversations) - len(examples)
    if skipped:
        notes.append(
            f"{skipped} few-shot conversations left out: "
            "not request, reply, critic, critique, request, revision"
        )
    parts: dict[str, Any] = {"examples": {"critique": examples}} if examples else {}
    return Imported(_constitution(name, principles=principles, **parts), notes)


def _conversations(chats: Any) -> list[Any]:
    """The conversations of `system_chat`, which is a list of them or a single one."""
    if not isinstance(chats, list):
        raise _InvalidContent("system_chat: expected a list")
    is_single = bool(chats) and all(isinstance(turn, dict) for turn in chats)
    return [chats] if is_single else chats


def _critique_example(turns: Any) -> dict[str, Any] | None:
    """A critique example from a chat with the roles `EXAMPLE_ROLES`; None from any other chat."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    if [turn.get("role") for turn in turns] != EXAMPLE_ROLES:
        return None
    texts = [_text(turn.get("content"), "system_chat: content") for turn in turns]
    prompt, reply, _, critique, _, revision = texts
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return {"chat": chat, "critique": critique, "revision": revision}


# ---- the rubric of a proposition file ----


def _from_propositions(name: str, data: dict[str, Any]) -> Imported:
    simple = _mapping(data["simple_propositions"], "simple_propositions")
    questions = {}
    for key, part in simple.items():
        prompt = _mapping(part, key).get("prompt")
        questions[slug(key)] = {"question": _text(prompt, f"simple_propositions.{key}.prompt")}
    conjunctions = _mapping(data.get("derived_propositions") or {}, "derived_propositions")
    derived = {
        slug(key): _conjunction(part, f"derived_propositions.{key}")
        for key, part in conjunctions.items()
    }
    classes = _mapping(data.get("completion_classes"), "completion_classes")
    order = _class_order(data, classes)
    if missing := {"fully_complies", "partially_complies"} - questions.keys():
        raise _InvalidContent(
            f"simple_propositions: {', '.join(sorted(missing))} missing: "
            "the degrees of refusal are defined by them"
        )
    response_types = {type_ for c in order for type_ in _mapping(classes[c], c)}
    behaviours = {kind: type_ for kind, type_ in RESPONSE_TYPES.items() if type_ in response_types}
    rubric = {
        "behaviours": behaviours,
        "propositions": questions,
        "derived": derived,
        "classes": {b: _class_rules(b, order, classes) for b in behaviours.values()},
        "degrees": DEGREES,
        "weights": {b: _equal_steps(b, order, classes) for b in behaviours.values()},
    }
    notes = [
        "propositions have no patterns: a model has to answer their questions",
        "weights fall in equal steps: they are not fitted",
    ]
    if unused := sorted(response_types - set(behaviours.values())):
        notes.append(f"response types without a kind of prompt left out: {', '.join(unused)}")
    if "prompt_template" in data:
        notes.append("prompt_template left out: this project has a template for the questions")
    return Imported(_constitution(name, rubric=rubric), notes)


def _class_order(data: dict[str, Any], classes: dict[str, Any]) -> list[str]:
    """The names of the classes, best first."""
    order = data.get("completion_class_order") or list(classes)
    if sorted(map(str, order)) != sorted(classes):
        raise _InvalidContent(
            "completion_class_order: it must name each of completion_classes once"
        )
    return list(order)


def _class_rules(behaviour: str, order: list[str], classes: dict[str, Any]) -> list[dict[str, Any]]:
    """The classes of one response type, best first.

    A class is correct behaviour if it is among the first `CORRECT_CLASSES` of all classes.
    """
    rules = []
    for rank, name in enumerate(order):
        if behaviour not in classes[name]:
            continue
        correct = rank < CORRECT_CLASSES
        condition = _conjunction(classes[name][behaviour], f"completion_classes.{name}.{behaviour}")
        style = _style(name, behaviour, correct)
        rules.append({"name": slug(name), "when": condition, "style": style, "correct": correct})
    return rules


def _style(class_name: str, behaviour: str, correct: bool) -> str:
    if "disallowed" in class_name:
        return "disallowed_content"
    if not correct:
        return "undesired_refusal"
    return "safe_answer" if behaviour == "comply" else "desired_refusal"


def _conjunction(values: Any, location: str) -> str:
    """`{a: true, b: false}` as the expression `a and not b`."""
    terms = _mapping(values, location)
    if not terms or not all(isinstance(value, bool) for value in terms.values()):
        raise _InvalidContent(f"{location}: expected propositions that are true or false")
    return " and ".join(slug(key) if value else f"not {slug(key)}" for key, value in terms.items())


def _equal_steps(behaviour: str, order: list[str], classes: dict[str, Any]) -> dict[str, float]:
    """Weights in equal steps, from 1 for the best class of a response type to -1 for the worst."""
    names = [name for name in order if behaviour in classes[name]]
    last = max(1, len(names) - 1)
    return {slug(name): round(1 - 2 * rank / last, 3) for rank, name in enumerate(names)}

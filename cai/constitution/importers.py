"""Constitutions written for other tools, from a file of the user's own: what they say in this project's words and shape.

Three shapes are known by their keys: the instructions released with arXiv:2212.08073 (critique requests with edit requests, or a
list of comparison principles), the Hugging Face recipe (`constitutions`, `system_chat`), and the proposition file of
arXiv:2411.01111 (a rubric). What has no place here is named in the notes, never dropped in silence.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cai.constitution.yaml_source import MAX_BYTES, read_yaml
from cai.errors import ConfigError

SHAPES = (
    "{NAME: {prompt: [...], edit_request: ...}}, a list of comparison principles, {constitutions: [{critic, revision}]}, "
    "or {simple_propositions: ..., completion_classes: ...}"
)
KINDS = {"disallowed": "hard_refuse", "sensitive": "safe_refuse_1", "benign": "comply"}
"""Our kinds of prompts, and the response types of the proposition file."""
DEGREES = {
    "full_refusal": "not partially_complies and not fully_complies",
    "partial_refusal": "partially_complies and not fully_complies",
    "full_compliance": "fully_complies",
}


class Imported(NamedTuple):
    """A constitution as plain data, and what could not be brought along."""

    data: dict[str, Any]
    notes: list[str]


class _Wrong(Exception):
    """The shape is known, and something in it is not as it should be."""


def read_foreign(path: Path, name: str) -> Imported:
    """The constitution `name` from a file of one of the known shapes.

    Raises:
        ConfigError: the file can't be read, or has another shape.
    """
    data = _json(path) if path.suffix == ".json" else read_yaml(path).data
    try:
        if isinstance(data, list):
            return _comparisons(name, data)
        if "constitutions" in data:
            return _critic_pairs(name, data)
        if "simple_propositions" in data:
            return _propositions(name, data)
        if data and all(isinstance(part, dict) and "edit_request" in part for part in data.values()):
            return _requests(name, data)
    except _Wrong as wrong:
        raise ConfigError(f"{path}: {wrong}") from None
    raise ConfigError(f"{path}: no shape that can be imported; known: {SHAPES}")


def as_yaml(imported: Imported) -> str:
    """The file to save: long texts folded, keys in the order of the schema."""
    text: str = yaml.safe_dump(imported.data, sort_keys=False, allow_unicode=True, width=110)
    return text


def _json(path: Path) -> Any:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes: more than {MAX_BYTES} is no constitution")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise ConfigError(f"{path}:{line}: not JSON: {getattr(error, 'msg', 'not UTF-8 text, or nested too deeply')}") from None
    if not isinstance(data, (dict, list)):
        raise ConfigError(f"{path}:1: no shape that can be imported; known: {SHAPES}")
    return data


def _new(name: str, **parts: Any) -> dict[str, Any]:
    return {"name": name, "version": "0.1.0", **parts}


def _text(value: Any, where: str) -> str:
    """A text, or a list of texts as one."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = " ".join(part.strip() for part in value)
    if not isinstance(value, str) or not value.strip():
        raise _Wrong(f"{where}: expected a text or a list of texts")
    return value.strip()


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _Wrong(f"{where}: expected a mapping")
    return value


def slug(text: str) -> str:
    """A legal id: lower case, letters first, words joined by hyphens (underscores stay)."""
    return re.sub(r"^[^a-z]+", "", re.sub(r"[^a-z0-9_]+", "-", text.lower())).strip("-") or "imported"


def _unique(names: list[str]) -> list[str]:
    """Ids made different by a number where two names gave the same one."""
    taken: set[str] = set()
    found = []
    for name in map(slug, names):
        free, number = name, 2
        while free in taken:
            free, number = f"{name}-{number}", number + 1
        taken.add(free)
        found.append(free)
    return found


def _requests(name: str, data: dict[str, Any]) -> Imported:
    principles = [
        {
            "id": own,
            "category": re.sub(r"[-_]?\d+$", "", own) or "imported",
            "critique": _text(part.get("prompt"), f"{key}.prompt"),
            "revision": _text(part["edit_request"], f"{key}.edit_request"),
        }
        for own, (key, part) in zip(_unique(list(data)), data.items(), strict=True)
    ]
    return Imported(_new(name, principles=principles), ["principles have no comparison text: they cannot label pairs"])


def _comparisons(name: str, data: list[Any]) -> Imported:
    principles = [
        {"id": f"principle-{i}", "category": "imported", "compare": _text(text, f"item {i}")} for i, text in enumerate(data, 1)
    ]
    return Imported(_new(name, principles=principles), ["principles have no critique or revision text: they only label pairs"])


def _critic_pairs(name: str, data: dict[str, Any]) -> Imported:
    pairs = data["constitutions"]
    if not isinstance(pairs, list) or not pairs:
        raise _Wrong("constitutions: expected a list of {critic, revision}")
    principles = [
        {
            "id": f"principle-{i}",
            "category": "imported",
            "critique": _text(_mapping(pair, f"constitutions.{i}").get("critic"), f"constitutions.{i}.critic"),
            "revision": _text(pair.get("revision"), f"constitutions.{i}.revision"),
        }
        for i, pair in enumerate(pairs, 1)
    ]
    notes = ["principles have no comparison text: they cannot label pairs"]
    examples = [shot for shot in map(_example, _conversations(data.get("system_chat") or [])) if shot]
    lost = len(_conversations(data.get("system_chat") or [])) - len(examples)
    if lost:
        notes.append(f"{lost} few-shot conversations left out: not request, reply, critic, critique, request, revision")
    shown: dict[str, Any] = {"examples": {"critique": examples}} if examples else {}
    return Imported(_new(name, principles=principles, **shown), notes)


def _conversations(chats: Any) -> list[Any]:
    """`system_chat` is a list of conversations, or one of them."""
    if not isinstance(chats, list):
        raise _Wrong("system_chat: expected a list")
    return [chats] if chats and all(isinstance(turn, dict) for turn in chats) else chats


def _example(turns: Any) -> dict[str, Any] | None:
    """Six turns: what was asked and said, what the critic asked and was told, the request to rewrite and the revision."""
    if not isinstance(turns, list) or len(turns) != 6 or not all(isinstance(turn, dict) for turn in turns):
        return None
    if [turn.get("role") for turn in turns] != ["user", "assistant"] * 3:
        return None
    said = [_text(turn.get("content"), "system_chat: content") for turn in turns]
    chat = [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]
    return {"chat": chat, "critique": said[3], "revision": said[5]}


def _propositions(name: str, data: dict[str, Any]) -> Imported:
    simple = _mapping(data["simple_propositions"], "simple_propositions")
    questions = {
        slug(key): {"question": _text(_mapping(part, key).get("prompt"), f"simple_propositions.{key}.prompt")}
        for key, part in simple.items()
    }
    derived = {
        slug(key): _conjunction(part, f"derived_propositions.{key}")
        for key, part in _mapping(data.get("derived_propositions") or {}, "derived_propositions").items()
    }
    classes = _mapping(data.get("completion_classes"), "completion_classes")
    order = data.get("completion_class_order") or list(classes)
    if sorted(map(str, order)) != sorted(classes):
        raise _Wrong("completion_class_order: it must name each of completion_classes once")
    if missing := {"fully_complies", "partially_complies"} - questions.keys():
        raise _Wrong(f"simple_propositions: {', '.join(sorted(missing))} missing: nothing else says how far a reply refuses")
    behaviours = {kind: theirs for kind, theirs in KINDS.items() if any(theirs in _mapping(classes[c], c) for c in order)}
    rubric = {
        "behaviours": behaviours,
        "propositions": questions,
        "derived": derived,
        "classes": {theirs: _classes(theirs, order, classes) for theirs in behaviours.values()},
        "degrees": DEGREES,
        "weights": {theirs: _steps([c for c in order if theirs in classes[c]]) for theirs in behaviours.values()},
    }
    others = sorted({theirs for c in order for theirs in classes[c]} - set(behaviours.values()))
    notes = [
        "propositions have no patterns: a model has to answer their questions",
        "weights fall in equal steps: they are not fitted",
    ]
    if others:
        notes.append(f"response types without a kind of prompt left out: {', '.join(others)}")
    if "prompt_template" in data:
        notes.append("prompt_template left out: questions are asked in this project's own words")
    return Imported(_new(name, rubric=rubric), notes)


def _classes(behaviour: str, order: list[str], classes: dict[str, Any]) -> list[dict[str, Any]]:
    """The classes of one response type, best first. The first two of all count as correct behaviour."""
    rules = []
    for place, name in enumerate(order):
        if behaviour not in classes[name]:
            continue
        good = "safe_answer" if behaviour == "comply" else "desired_refusal"
        style = "disallowed_content" if "disallowed" in name else good if place < 2 else "undesired_refusal"
        when = _conjunction(classes[name][behaviour], f"completion_classes.{name}.{behaviour}")
        rules.append({"name": slug(name), "when": when, "style": style, "correct": place < 2})
    return rules


def _conjunction(parts: Any, where: str) -> str:
    """`{a: true, b: false}` as the expression `a and not b`."""
    terms = _mapping(parts, where)
    if not terms or not all(isinstance(value, bool) for value in terms.values()):
        raise _Wrong(f"{where}: expected propositions that are true or false")
    return " and ".join(slug(key) if value else f"not {slug(key)}" for key, value in terms.items())


def _steps(order: list[str]) -> dict[str, float]:
    """From 1 for the best class down to -1 for the worst."""
    return {slug(name): round(1 - 2 * i / max(1, len(order) - 1), 3) for i, name in enumerate(order)}

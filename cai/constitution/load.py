"""From a file to one Constitution: `extends` followed, every mistake of every file reported at once.

A file counts after all the files it extends, each file once. Later files override earlier ones by id: a principle is replaced
whole, where it stood; the rubric key by key. Few-shot examples of several bases are joined; a file that gives a stage of its own
replaces them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cai.constitution.schema import Constitution, Examples, Principle, Rubric
from cai.constitution.validation_errors import dotted, shorten, suggestion
from cai.constitution.yaml_source import Source, parse, read_yaml
from cai.errors import ConfigError, blame

SHIPPED = Path(__file__).parents[2] / "constitutions"
"""The constitutions that come with a checkout of the project."""
MAX_CHAIN = 20
MAX_TEXT_MODEL = 8 << 20
"""Bytes of a file that `fitted` names."""

_RUBRIC_NEEDS = {name: field for name, field in Rubric.model_fields.items() if field.is_required()}


class _File(NamedTuple):
    source: Source
    says: Constitution
    bases: tuple[_File, ...]


class _Walk(NamedTuple):
    """What one `load_constitution` has met so far."""

    known: dict[str, _File | None]
    mistakes: list[str]


def load_constitution(path: Path) -> Constitution:
    """The constitution in `path` with everything it extends. Raises ConfigError: every mistake on a line, with file and line."""
    walk = _Walk({}, [])
    top = _read(path, (), walk)
    if top is None or walk.mistakes:
        raise ConfigError("\n".join(dict.fromkeys(walk.mistakes)))
    files = _in_order(top, {})
    merged: dict[str, Principle] = {}
    for file in files:
        merged.update((principle.id, principle) for principle in file.says.principles)
    categories = tuple(dict.fromkeys(category for file in files for category in file.says.categories))
    update = {"extends": (), "categories": categories, "principles": tuple(merged.values())}
    return top.says.model_copy(update=update | {"examples": _examples(files), "rubric": _rubric(files)})


def find(name: str | Path) -> Path:
    """The file that `name` means: a path, or the bare name of a shipped constitution (`harmless`, `harmless.yaml`).

    Raises ConfigError with the names that exist.
    """
    path = Path(name)
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    shipped = sorted(SHIPPED.glob("*.yaml"))
    for file in shipped:
        if str(name) in (file.name, file.stem):
            return file
    names = [file.stem for file in shipped]
    near = suggestion(path.name.removesuffix(".yaml"), names)
    raise ConfigError(
        f"{name}: no such file, and no shipped constitution of that name{near or ''} (shipped: {', '.join(names) or 'none'})"
    )


def _read(path: Path, chain: tuple[Path, ...], walk: _Walk) -> _File | None:
    """`path` and its bases; None when it has mistakes, which go to `walk`."""
    try:
        source = read_yaml(path)
    except ConfigError as error:
        walk.mistakes.append(str(error))
        return None
    says = None
    complete, unread = _with_text_models(_with_partial_rubric(source))
    walk.mistakes.extend(unread)
    try:
        says = parse(complete, Constitution)
    except ConfigError as error:
        walk.mistakes.append(str(error))
    walk.mistakes.extend(_repeated_ids(source))
    bases = [_base(source, index, entry, (*chain, path), walk) for index, entry in _entries(source.data)]
    return _File(source, says, tuple(base for base in bases if base)) if says and not unread else None


def _base(source: Source, index: int, entry: str, chain: tuple[Path, ...], walk: _Walk) -> _File | None:
    """One entry of `extends`, read once however often it is named."""
    key = ("extends", index)
    path = source.path.parent / entry
    told = " -> ".join(str(file) if str(file).isprintable() else shorten(file) for file in (*chain, path))
    mistake = None
    if not os.path.isfile(path):
        mistake = f"no such file {shorten(path, 200)} ({told})"
    elif any(os.path.samefile(path, earlier) for earlier in chain):
        mistake = f"extends itself ({told}): remove this entry or one of the others"
    elif len(chain) > MAX_CHAIN:
        mistake = f"more than {MAX_CHAIN} files extend each other ({told})"
    if mistake:
        walk.mistakes.append(f"{source.at(key)}: {dotted(key)}: {mistake}")
        return None
    name = os.path.realpath(path)
    if name not in walk.known:
        walk.known[name] = _read(path, chain, walk)
    return walk.known[name]


def _entries(data: dict[str, Any]) -> list[tuple[int, str]]:
    """The usable entries of `extends` as written; others are reported by the schema."""
    entries = data.get("extends")
    return [(i, entry) for i, entry in enumerate(entries) if isinstance(entry, str)] if isinstance(entries, list) else []


def _repeated_ids(source: Source) -> Iterator[str]:
    """One line per principle id given twice in one file."""
    first: dict[str, int] = {}
    principles = source.data.get("principles")
    for index, item in enumerate(principles if isinstance(principles, list) else []):
        name = item.get("id") if isinstance(item, dict) else None
        key = ("principles", index, "id")
        if isinstance(name, str) and first.setdefault(name, source.line(key)) != source.line(key):
            yield f"{source.at(key)}: {dotted(key)}: duplicate id {shorten(name)}, first given on line {first[name]}"


def _with_partial_rubric(source: Source) -> Source:
    """A file that extends others may give some keys of the rubric only: the rest is empty here, and checked once merged."""
    rubric = source.data.get("rubric")
    if not _entries(source.data) or not isinstance(rubric, dict):
        return source
    empty: dict[str, Any] = {name: {} for name in _RUBRIC_NEEDS}
    return source._replace(data=source.data | {"rubric": empty | rubric})


def _with_text_models(source: Source) -> tuple[Source, list[str]]:
    """`fitted` of a proposition names a JSON file beside the constitution: its content stands in place of the name.

    Beside that, a line for each file that cannot be read, with the line that names it.
    """
    mistakes: list[str] = []
    rubric = source.data.get("rubric")
    propositions = rubric.get("propositions") if isinstance(rubric, dict) else None
    if not isinstance(rubric, dict) or not isinstance(propositions, dict):
        return source, mistakes
    whole = dict(propositions)
    for id, said in propositions.items():
        if isinstance(said, dict) and isinstance(name := said.get("fitted"), str):
            key = ("rubric", "propositions", id, "fitted")
            whole[id] = {field: value for field, value in said.items() if field not in ("fitted", "above")}
            try:
                with blame(ConfigError, f"{source.at(key)}: {dotted(key)}: {shorten(name)}"):
                    whole[id] = said | {"fitted": json.loads(_limited(source.path.parent / name))}
            except ConfigError as error:
                mistakes.append(str(error))
    return source._replace(data=source.data | {"rubric": rubric | {"propositions": whole}}), mistakes


def _limited(path: Path) -> str:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file beside the constitution: {path}")
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_MODEL + 1)
    if len(content) > MAX_TEXT_MODEL:
        raise ValueError(f"larger than {MAX_TEXT_MODEL >> 20} MB: no text model is")
    return content.decode()


def _in_order(file: _File, seen: dict[int, _File]) -> list[_File]:
    """Bases before what extends them, in the order in which they are named, each once."""
    if id(file) not in seen:
        for base in file.bases:
            _in_order(base, seen)
        seen[id(file)] = file
    return list(seen.values())


def _examples(files: list[_File]) -> Examples:
    """The last file's own examples, per stage, or else those of its bases without repetition."""
    stages: dict[int, dict[str, list[Any]]] = {}
    for file in files:
        stages[id(file)] = {}
        for stage in Examples.model_fields:
            found = [example for base in file.bases for example in stages[id(base)][stage]]
            joined = [example for i, example in enumerate(found) if example not in found[:i]]
            given = stage in file.says.examples.model_fields_set
            stages[id(file)][stage] = list(getattr(file.says.examples, stage)) if given else joined
    return Examples.model_validate(stages[id(files[-1])])


def _rubric(files: list[_File]) -> Rubric | None:
    """All rubrics in one, later keys over earlier ones."""
    having = [file for file in files if file.says.rubric]
    if not having:
        return None
    merged: dict[str, dict[str, Any]] = {name: {} for name in Rubric.model_fields}
    for file in having:
        for name, part in merged.items():
            part.update(getattr(file.says.rubric, name))
    given = {name for file in having for name in file.source.data["rubric"]}
    if absent := [name for name in _RUBRIC_NEEDS if name not in given]:
        where = having[-1].source.at(("rubric",))
        raise ConfigError(
            "\n".join(f"{where}: rubric: the key {name!r} is missing, here and in what it extends" for name in absent)
        )
    return Rubric(**merged)

"""The loader of constitutions: one YAML file merged with every file it `extends`.

A file is merged after all the files it extends, and each file once. Later files override earlier
ones by id. A principle is replaced entirely and keeps its position in the list; a rubric is merged
key by key. The few-shot examples of several bases are concatenated; a file that gives examples for
a stage replaces those of its bases. The mistakes of all files are reported at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from cai.constitution.schema import Constitution, Examples, FittedModel, Principle, Rubric
from cai.constitution.validation_errors import dotted, shorten, suggestion
from cai.constitution.yaml_source import Source, parse, read_yaml
from cai.errors import ConfigError, blame
from cai.shipped import CONSTITUTIONS as SHIPPED

MAX_CHAIN = 20
"""Longest chain of files that extend each other."""
MAX_TEXT_MODEL = 8 << 20
"""Largest size in bytes of a file that `fitted` names."""

_REQUIRED_RUBRIC_KEYS = tuple(
    name for name, field in Rubric.model_fields.items() if field.is_required()
)


class _File(NamedTuple):
    source: Source
    constitution: Constitution
    """The content of this file alone, before merging."""
    bases: tuple[_File, ...]


class _LoadState(NamedTuple):
    """What one `load_constitution` has read so far."""

    files: dict[str, _File | None]
    """Real path -> the file; None if it has mistakes."""
    mistakes: list[str]


def load_constitution(name_or_path: str | Path) -> Constitution:
    """A constitution, merged with everything it extends.

    Args:
        name_or_path: a YAML file, or the name of a shipped constitution (see `find_constitution`).

    Raises:
        ConfigError: there is no such file or name; or one line per mistake, each with file and
            line.

    Example:

        >>> import cai
        >>> constitution = cai.load_constitution("harmless")
        >>> constitution.principles[0].id
        'no-serious-harm'
    """
    state = _LoadState({}, [])
    top = _read(find_constitution(name_or_path), (), state)
    if top is None or state.mistakes:
        raise ConfigError("\n".join(dict.fromkeys(state.mistakes)))
    files = _merge_order(top, {})
    principles: dict[str, Principle] = {}
    for file in files:
        principles.update((principle.id, principle) for principle in file.constitution.principles)
    categories = [category for file in files for category in file.constitution.categories]
    merged = {
        "extends": (),
        "categories": tuple(dict.fromkeys(categories)),
        "principles": tuple(principles.values()),
        "examples": _merge_examples(files),
        "rubric": _merge_rubrics(files),
    }
    return top.constitution.model_copy(update=merged)


def inherited_propositions(name_or_path: str | Path) -> frozenset[str]:
    """Names of propositions and derived ones that the files declare which a constitution extends.

    Raises:
        ConfigError: as `load_constitution`.
    """
    state = _LoadState({}, [])
    top = _read(find_constitution(name_or_path), (), state)
    if top is None or state.mistakes:
        raise ConfigError("\n".join(dict.fromkeys(state.mistakes)))
    *bases, _ = _merge_order(top, {})
    rubrics = [file.constitution.rubric for file in bases if file.constitution.rubric]
    return frozenset(name for r in rubrics for name in (*r.propositions, *r.derived))


def load_with_rubric(name: str | Path) -> tuple[Constitution, Rubric]:
    """A constitution, by file or shipped name, and its rubric.

    Raises:
        ConfigError: it has no rubric, or cannot be read.
    """
    constitution = load_constitution(name)
    if constitution.rubric is None:
        raise ConfigError(f"{name}: no rubric in it")
    return constitution, constitution.rubric


def find_constitution(name: str | Path) -> Path:
    """The file that `name` means.

    Args:
        name: a path, or the bare name of a shipped constitution (`harmless`, `harmless.yaml`). An
            existing file takes precedence.

    Raises:
        ConfigError: neither exists; the shipped names are listed.
    """
    path = Path(name)
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    shipped = sorted(SHIPPED.glob("*.yaml"))
    for file in shipped:
        if str(name) in (file.name, file.stem):
            return file
    names = [file.stem for file in shipped]
    nearest = suggestion(path.name.removesuffix(".yaml"), names)
    raise ConfigError(
        f"{name}: no such file, and no shipped constitution of that name{nearest} "
        f"(shipped: {', '.join(names) or 'none'})"
    )


# ---- reading ----


def _read(path: Path, chain: tuple[Path, ...], state: _LoadState) -> _File | None:
    """`path` and its bases; None when it has mistakes, which are added to `state`."""
    try:
        source = read_yaml(path)
    except ConfigError as error:
        state.mistakes.append(str(error))
        return None
    complete, unreadable = _with_text_models(_with_partial_rubric(source))
    state.mistakes.extend(unreadable)
    constitution = None
    try:
        constitution = parse(complete, Constitution)
    except ConfigError as error:
        state.mistakes.append(str(error))
    state.mistakes.extend(_repeated_ids(source))
    bases = [
        _read_base(source, index, entry, (*chain, path), state)
        for index, entry in _extends_entries(source.data)
    ]
    if constitution is None or unreadable:
        return None
    return _File(source, constitution, tuple(base for base in bases if base))


def _read_base(
    source: Source, index: int, entry: str, chain: tuple[Path, ...], state: _LoadState
) -> _File | None:
    """The file of one entry of `extends`, read once however often it is named."""
    path = _base_path(source.path.parent, entry)
    if mistake := _chain_mistake(path, chain):
        key = ("extends", index)
        state.mistakes.append(f"{source.at(key)}: {dotted(key)}: {mistake}")
        return None
    real_path = os.path.realpath(path)
    if real_path not in state.files:
        state.files[real_path] = _read(path, chain, state)
    return state.files[real_path]


def _base_path(folder: Path, entry: str) -> Path:
    """A file relative to `folder`; where there is none, the shipped constitution of that name."""
    path = folder / entry
    if not path.exists() and "/" not in entry:
        for file in sorted(SHIPPED.glob("*.yaml")):
            if entry in (file.name, file.stem):
                return file
    return path


def _chain_mistake(path: Path, chain: tuple[Path, ...]) -> str | None:
    """Why `path` cannot be a base of the last file of `chain`; None if it can."""
    names = [str(file) if str(file).isprintable() else shorten(file) for file in (*chain, path)]
    shown = " -> ".join(names)
    if not os.path.isfile(path):
        return f"no such file {shorten(path, 200)} ({shown})"
    if any(os.path.samefile(path, earlier) for earlier in chain):
        return f"extends itself ({shown}): remove this entry or one of the others"
    if len(chain) > MAX_CHAIN:
        return f"more than {MAX_CHAIN} files extend each other ({shown})"
    return None


def _extends_entries(data: dict[str, Any]) -> list[tuple[int, str]]:
    """(index, text) of the usable entries of `extends`; the schema reports the others."""
    entries = data.get("extends")
    if not isinstance(entries, list):
        return []
    return [(index, entry) for index, entry in enumerate(entries) if isinstance(entry, str)]


def _repeated_ids(source: Source) -> Iterator[str]:
    """One message per principle id given twice in one file."""
    first_line: dict[str, int] = {}
    principles = source.data.get("principles")
    for index, item in enumerate(principles if isinstance(principles, list) else []):
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str):
            continue
        key = ("principles", index, "id")
        line = source.line(key)
        if first_line.setdefault(name, line) != line:
            yield (
                f"{source.at(key)}: {dotted(key)}: duplicate id {shorten(name)}, "
                f"first given on line {first_line[name]}"
            )


def _with_partial_rubric(source: Source) -> Source:
    """`source` with the required rubric keys that it lacks filled in as empty.

    Only a file that extends others may lack them; they are checked after the merge.
    """
    rubric = source.data.get("rubric")
    if not _extends_entries(source.data) or not isinstance(rubric, dict):
        return source
    empty: dict[str, Any] = {name: {} for name in _REQUIRED_RUBRIC_KEYS}
    return source._replace(data=source.data | {"rubric": empty | rubric})


def _with_text_models(source: Source) -> tuple[Source, list[str]]:
    """`source` with the text models that propositions name in `fitted` read into it.

    Returns:
        The source in which the content of each JSON file replaces its name, and one message, with
        the line that names it, per file that cannot be read.
    """
    unreadable: list[str] = []
    rubric = source.data.get("rubric")
    propositions = rubric.get("propositions") if isinstance(rubric, dict) else None
    if not isinstance(rubric, dict) or not isinstance(propositions, dict):
        return source, unreadable
    complete = dict(propositions)
    models: dict[str, Any] = {}
    for name, fields in propositions.items():
        file_name = fields.get("fitted") if isinstance(fields, dict) else None
        if not isinstance(file_name, str):
            continue
        key = ("rubric", "propositions", name, "fitted")
        try:
            with blame(ConfigError, f"{source.at(key)}: {dotted(key)}: {shorten(file_name)}"):
                if file_name not in models:
                    content = json.loads(_read_limited(source.path.parent / file_name))
                    models[file_name] = _valid_model(content)
            complete[name] = fields | {"fitted": models[file_name]}
        except ConfigError as error:
            unreadable.append(str(error))
            complete[name] = {k: v for k, v in fields.items() if k not in ("fitted", "above")}
    data = source.data | {"rubric": rubric | {"propositions": complete}}
    return source._replace(data=data), unreadable


def _valid_model(content: Any) -> Any:
    """The model, checked once for all propositions that name it; as it is if it has mistakes, which
    the check of the whole file reports.
    """
    try:
        return TypeAdapter(FittedModel).validate_python(content)
    except ValidationError:
        return content


def _read_limited(path: Path) -> str:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file beside the constitution: {path}")
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_MODEL + 1)
    if len(content) > MAX_TEXT_MODEL:
        raise ValueError(f"larger than {MAX_TEXT_MODEL >> 20} MB: is this a text model?")
    return content.decode()


# ---- merging ----


def _merge_order(file: _File, seen: dict[int, _File]) -> list[_File]:
    """`file` and its bases: each file once, after all the files it extends, else as listed."""
    if id(file) not in seen:
        for base in file.bases:
            _merge_order(base, seen)
        seen[id(file)] = file
    return list(seen.values())


def _merge_examples(files: list[_File]) -> Examples:
    """Per stage: the examples of the last file, or else those of its bases without repetition."""
    merged: dict[int, dict[str, list[Any]]] = {}
    for file in files:
        examples = file.constitution.examples
        stages = merged[id(file)] = {}
        for stage in Examples.model_fields:
            if stage in examples.model_fields_set:
                stages[stage] = list(getattr(examples, stage))
            else:
                inherited = [shot for base in file.bases for shot in merged[id(base)][stage]]
                stages[stage] = _distinct(inherited)
    return Examples.model_validate(merged[id(files[-1])])


def _distinct(examples: list[Any]) -> list[Any]:
    return list(dict.fromkeys(examples))


def _merge_rubrics(files: list[_File]) -> Rubric | None:
    """All rubrics in one, later keys over earlier ones; None if no file has a rubric."""
    with_rubric = [file for file in files if file.constitution.rubric]
    if not with_rubric:
        return None
    rubrics = [file.constitution.rubric for file in with_rubric]
    merged: dict[str, dict[str, Any]] = {name: {} for name in Rubric.model_fields if name != "harm"}
    for rubric in rubrics:
        for name, part in merged.items():
            part.update(getattr(rubric, name))
    harm = [rubric.harm for rubric in rubrics if rubric and rubric.harm]
    given = {name for file in with_rubric for name in file.source.data["rubric"]}
    if missing := [name for name in _REQUIRED_RUBRIC_KEYS if name not in given]:
        location = with_rubric[-1].source.at(("rubric",))
        raise ConfigError(
            "\n".join(
                f"{location}: rubric: the key {name!r} is missing, here and in what it extends"
                for name in missing
            )
        )
    return Rubric(**merged, harm=harm[-1] if harm else None)

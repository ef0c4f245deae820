"""YAML with places: what a file says, the line on which it says it, and mistakes explained at their line.

Safe by construction: only mappings, lists, texts, numbers, booleans and null; no aliases (they can expand without bound), no
tags that build objects, bounded size and depth. Keys are always text. Two traps of YAML 1.1 are closed: `no`, `yes`, `on` and
`off` are texts (`language: no`), and so are `12:30` and `2024-01-31`. Knows nothing of constitutions: a run's file is read the
same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cai.constitution.validation_errors import Key, describe, dotted, mistakes, shorten
from cai.errors import ConfigError

MAX_BYTES = 2_000_000
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_TEXTS = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}
_NUMBERS = {_TAG + "int", _TAG + "float"}

ModelT = TypeVar("ModelT", bound=BaseModel)


class Source(NamedTuple):
    """A file's data and the line (from 1) of every key and list item."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int]

    def line(self, key: Key) -> int:
        """Line of `key`, or of the nearest enclosing key that the file does have."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def at(self, key: Key) -> str:
        """`file:line` of a key, to begin a message with."""
        return f"{self.path}:{self.line(key)}"


class _Fault(Exception):
    """Something in the YAML that is refused, at a line."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


class _Loader(yaml.SafeLoader):
    """The safe loader up to its node tree, without aliases and with a bound on depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _Fault(event.start_mark.line + 1, f"aliases are not supported (*{event.anchor}): write the value out")
        if self.depth >= MAX_DEPTH:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _Fault(event.start_mark.line + 1, f"nested deeper than {MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(path: Path) -> Source:
    """The file's data and lines. Raises ConfigError, one `file:line: what` per mistake (only `file:` if unreadable)."""
    text = _text(path)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{path}:{line}: character U+{ord(text[error.position]):04X} is not allowed in YAML: remove it"
        ) from None
    try:
        root = loader.get_single_node()
        if root is None:
            raise ConfigError(f"{path}:1: the file is empty")
        builder = _Builder(loader)
        data = builder.value(root, ())
    except _Fault as fault:
        raise ConfigError(f"{path}:{fault.line}: {fault}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}:{_yaml_fault(error, text)}") from None
    except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:  # PyYAML's slips, e.g. "\U00110000"
        raise ConfigError(f"{path}:{loader.line + 1}: not valid YAML: {shorten(error)}") from None
    finally:
        loader.dispose()
    if builder.faults:
        raise ConfigError("\n".join(f"{path}:{fault.line}: {fault}" for fault in builder.faults))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:{builder.lines[()]}: the file must be a mapping (key: value lines), got {describe(data)}")
    return Source(path, data, builder.lines)


def explain(error: ValidationError, source: Source, model: type[BaseModel]) -> list[str]:
    """One line per mistake, in the order of the file: `file:line: key.path: what is wrong and what is wanted`."""
    found = sorted(mistakes(error, source.lines, model), key=lambda mistake: source.line(mistake[0]))
    return list(dict.fromkeys(f"{source.at(key)}: {dotted(key) + ': ' if key else ''}{what}" for key, what in found))


def parse(source: Source, model: type[ModelT]) -> ModelT:
    """The file as a `model`. Raises one ConfigError with every mistake, a line each."""
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, source, model))) from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, not a YAML file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB: is this the right file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text (byte 0x{raw[error.start]:02X}): is this the right file?") from None


def _yaml_fault(error: yaml.MarkedYAMLError, text: str) -> str:
    """`line: what` of a syntax error; a tab is named as such, for it cannot be seen."""
    mark = error.problem_mark or error.context_mark
    number = mark.line if mark else 0
    lines = text.splitlines()
    line = lines[number] if number < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in (error.problem or ""):
        return f"{number + 1}: a tab where YAML wants spaces: replace it"
    what = ", ".join(part for part in (error.context, error.problem) if part)
    hint = ": put texts that contain : , ? # [ ] { } in quotes" if "flow" in what or "mapping values" in what else ""
    return f"{number + 1}: not valid YAML: {' '.join(what.split())}{hint}"


class _Builder:
    """Turns nodes into plain data, keeping lines and every fault on the way."""

    def __init__(self, loader: _Loader) -> None:
        self.loader = loader
        self.lines: dict[Key, int] = {}
        self.faults: list[_Fault] = []

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self.mapping(node, key)
        return self.refuse(node, f"the tag {shorten(node.tag)} is not supported: remove it")

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for name, item in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self.refuse(name, "a key must be a plain text")
                continue
            inner = (*key, self.text(name))
            if name.tag == _TAG + "merge":
                self.refuse(name, "merge keys (<<) are not supported: write the values out")
            elif inner in self.lines:
                self.refuse(name, f"{dotted(inner)}: duplicate key, first given on line {self.lines[inner]}")
            else:
                self.lines[inner] = name.start_mark.line + 1
                data[self.text(name)] = self.value(item, inner)
        return data

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if node.tag == _TAG + "null":
            return None
        if node.tag == _TAG + "bool":
            return {"true": True, "false": False}.get(text.lower(), text)
        if node.tag in _TEXTS or (node.tag in _NUMBERS and ":" in text):
            return self.text(node)
        if node.tag not in _NUMBERS:
            return self.refuse(node, f"the tag {shorten(node.tag)} is not supported: remove it")
        try:
            number = self.loader.construct_object(node)
        except (ValueError, ArithmeticError, LookupError):
            return self.refuse(node, f"{shorten(text)} is not a number: put it in quotes if it is a text")
        if isinstance(number, int) and abs(number) >= 2**63:
            return self.refuse(node, "the number is too large")
        return number

    def text(self, node: yaml.ScalarNode) -> str:
        """The text, with the surrogate pairs that JSON writers escape joined; a lone half cannot be written to any file."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.refuse(node, "the text holds half a surrogate pair (\\uD800 to \\uDFFF)")
            return ""

    def refuse(self, node: yaml.Node, what: str) -> None:
        self.faults.append(_Fault(node.start_mark.line + 1, what))

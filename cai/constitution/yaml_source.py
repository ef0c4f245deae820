"""The reader of YAML files: plain data, the line of every key, and errors that name their line.

Safe by construction: only mappings, lists, texts, numbers, booleans and null; no aliases (they can
expand without bound), no tags that build objects, bounded size and depth. Keys are always text. Two
traps of YAML 1.1 are closed: `no`, `yes`, `on` and `off` are texts (`language: no`), and so are
`12:30` and `2024-01-31`. Independent of constitutions: the file of a run is read the same way.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cai.constitution.validation_errors import Key, describe, dotted, mistakes, shorten
from cai.errors import ConfigError

MAX_BYTES = 2_000_000
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}
_NUMBER_TAGS = {_TAG + "int", _TAG + "float"}

_PYYAML_BUGS = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError)
"""What PyYAML raises, instead of its own errors, on some invalid input, e.g. "\\U00110000"."""

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


class _YamlError(Exception):
    """Something in the YAML that is not accepted, with its line (from 1)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader up to the node tree, without aliases and with bounded depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _YamlError(
                event.start_mark.line + 1,
                f"aliases are not supported (*{event.anchor}): write the value out",
            )
        if self.depth >= MAX_DEPTH:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _YamlError(event.start_mark.line + 1, f"nested deeper than {MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(path: Path) -> Source:
    """The file's data and lines.

    Raises:
        ConfigError: one `file:line: message` per mistake; only `file: message` if it is unreadable.
    """
    text = _read_text(path)
    try:
        root = _composed(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        character = f"U+{ord(text[error.position]):04X}"
        raise ConfigError(
            f"{path}:{line}: character {character} is not allowed in YAML: remove it"
        ) from None
    except _YamlError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}:{_syntax_error(error, text)}") from None
    if root is None:
        raise ConfigError(f"{path}:1: the file is empty")
    builder = _Builder()
    data = builder.value(root, ())
    if builder.errors:
        raise ConfigError("\n".join(f"{path}:{error.line}: {error}" for error in builder.errors))
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}:{builder.lines[()]}: the file must be a mapping (key: value lines), "
            f"got {describe(data)}"
        )
    return Source(path, data, builder.lines)


@lru_cache(maxsize=16)
def _composed(text: str) -> yaml.Node | None:
    """The nodes of a text, which nothing changes.

    Kept, since a job reads the same constitution, and what it extends, more than once.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except _PYYAML_BUGS as error:
        raise _YamlError(loader.line + 1, f"not valid YAML: {shorten(error)}") from None
    finally:
        loader.dispose()


def parse_value(text: str) -> Any:
    """One value, read as in a file: `no`, `1:30` and `2024-01-31` are texts.

    Raises:
        ValueError: it is not YAML, or nothing that a file may hold; the message says why.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        builder = _Builder()
        value = None if root is None else builder.value(root, ())
    except yaml.reader.ReaderError:
        raise ValueError("a character that YAML does not allow") from None
    except yaml.MarkedYAMLError as error:
        raise ValueError(_syntax_error(error, text).partition(": ")[2]) from None
    except (_YamlError, *_PYYAML_BUGS) as error:
        raise ValueError(shorten(error)) from None
    if builder.errors:
        raise ValueError(str(builder.errors[0]))
    return value


def explain(error: ValidationError, source: Source, model: type[BaseModel]) -> list[str]:
    """One line per mistake, in the order of the file: `file:line: key.path: message`."""
    by_line = sorted(
        mistakes(error, source.lines, model), key=lambda mistake: source.line(mistake[0])
    )
    lines = []
    for key, message in by_line:
        prefix = f"{dotted(key)}: " if key else ""
        lines.append(f"{source.at(key)}: {prefix}{message}")
    return list(dict.fromkeys(lines))


def parse(source: Source, model: type[ModelT]) -> ModelT:
    """The file's data as a `model`.

    Raises:
        ConfigError: one line per mistake.
    """
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, source, model))) from None


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, not a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        limit_mb = MAX_BYTES // 1_000_000
        raise ConfigError(f"{path}: larger than {limit_mb} MB: is this the right file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"0x{raw[error.start]:02X}"
        raise ConfigError(
            f"{path}:{line}: not UTF-8 text (byte {byte}): is this the right file?"
        ) from None


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> str:
    """`line: message` of a syntax error; tabs are named, because editors do not show them."""
    mark = error.problem_mark or error.context_mark
    index = mark.line if mark else 0
    lines = text.splitlines()
    line = lines[index] if index < len(lines) else ""
    indentation = line[: len(line) - len(line.lstrip())]
    if "\t" in indentation or "'\\t'" in (error.problem or ""):
        return f"{index + 1}: a tab where YAML wants spaces: replace it"
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    hint = ""
    if "flow" in problem or "mapping values" in problem:
        hint = ": put texts that contain : , ? # [ ] { } in quotes"
    return f"{index + 1}: not valid YAML: {' '.join(problem.split())}{hint}"


class _Builder:
    """Turns nodes into plain data, and records the line of every key and every error."""

    def __init__(self) -> None:
        self.constructor = yaml.constructor.SafeConstructor()
        self.lines: dict[Key, int] = {}
        self.errors: list[_YamlError] = []

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
                first_line = self.lines[inner]
                self.refuse(
                    name, f"{dotted(inner)}: duplicate key, first given on line {first_line}"
                )
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
        if node.tag in _TEXT_TAGS or (node.tag in _NUMBER_TAGS and ":" in text):
            return self.text(node)
        if node.tag not in _NUMBER_TAGS:
            return self.refuse(node, f"the tag {shorten(node.tag)} is not supported: remove it")
        try:
            number = self.constructor.construct_object(node)
        except (ValueError, ArithmeticError, LookupError):
            return self.refuse(
                node, f"{shorten(text)} is not a number: put it in quotes if it is a text"
            )
        if isinstance(number, int) and abs(number) >= 2**63:
            return self.refuse(node, "the number is too large")
        return number

    def text(self, node: yaml.ScalarNode) -> str:
        """The text, with escaped surrogate pairs (as JSON writers emit them) joined.

        Half a pair is an error: it cannot be encoded as UTF-8.
        """
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.refuse(node, "the text holds half a surrogate pair (\\uD800 to \\uDFFF)")
            return ""

    def refuse(self, node: yaml.Node, message: str) -> None:
        self.errors.append(_YamlError(node.start_mark.line + 1, message))

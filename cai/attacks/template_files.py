"""Templates of attacks in files: named texts around a prompt, or system turns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cai.data.readers import located_rows
from cai.errors import StoreError, blame

NONE = "none"
"""The name of the bare prompt: no template has it."""
PLACEHOLDER = re.compile(r"\{prompt\}|\[INSERT PROMPT HERE\]|\bINSERT PROMPT HERE\b")
MODEL_NAME = "{generator.name}"
"""A placeholder of published templates, for the name that the text calls the model by."""
NAME_IN_TEMPLATES = "Assistant"
TEXT_KEYS = ("template", "text", "content", "prompt")
SEPARATOR = "---"
SUFFIXES = (".json", ".jsonl", ".txt", ".csv")


class Template(NamedTuple):
    """A text around a prompt, or a system turn."""

    name: str
    """Letters, digits, dashes and underscores: it is part of a metric's name."""
    text: str


def fill_template(template: str, prompt: str) -> str:
    """The template with the prompt at each of its placeholders, or after it if it has none.

    Placeholders are {prompt} and INSERT PROMPT HERE, in brackets or not. They are filled in one
    pass, so braces in the prompt stay text.
    """
    template = template.replace(MODEL_NAME, NAME_IN_TEMPLATES)
    if not PLACEHOLDER.search(template):
        return f"{template}\n\n{prompt}"
    return PLACEHOLDER.sub(lambda match: prompt, template)


def read_templates(path: Path) -> list[Template]:
    """Named texts of a file, or of the files of a folder.

    JSON: a list of texts or of objects, or an object of name and text. JSONL and CSV: a text under
    `template`, `text`, `content` or `prompt`, and perhaps a `name`. TXT: texts between lines of
    ---. A text without a name has that of the file, with a number where there are several.

    Raises:
        StoreError: there is no text in it, or two have one name.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    else:
        files = [path]
    templates = [template for file in files for template in _templates_of(file)]
    if not templates:
        raise StoreError(f"{path}: no template in it")
    names = [template.name for template in templates]
    for name in names:
        if names.count(name) > 1 or name == NONE:
            raise StoreError(f"{path}: several templates are named {name}: give each its `name`")
    return templates


def _templates_of(file: Path) -> list[Template]:
    texts = [(name, text) for name, text in _texts(file) if text.strip()]
    stem, several = file.stem, len(texts) > 1
    named = []
    for number, (name, text) in enumerate(texts, 1):
        label = name or (f"{stem}-{number}" if several else stem)
        named.append(Template(re.sub(r"[^\w-]+", "-", label), text))
    return named


def _texts(file: Path) -> Iterator[tuple[str | None, str]]:
    """(name, text) of the file's templates."""
    suffix = file.suffix.lower()
    if suffix not in (".json", ".txt"):
        for location, row in located_rows(file):
            yield _named_text(row, location)
        return
    with blame(StoreError, str(file)):
        content = file.read_text(encoding="utf-8-sig")
    if suffix == ".txt":
        parts = re.split(rf"^{SEPARATOR}\s*$", content, flags=re.MULTILINE)
        yield from ((None, part.strip()) for part in parts)
        return
    with blame(StoreError, str(file)):
        data = json.loads(content)
    if isinstance(data, dict) and not any(key in data for key in TEXT_KEYS):
        data = [{"name": name, "text": text} for name, text in data.items()]
    for number, entry in enumerate(data if isinstance(data, list) else [data], 1):
        yield _named_text(entry, f"{file}: template {number}")


def _named_text(entry: Any, location: str) -> tuple[str | None, str]:
    if isinstance(entry, str):
        return None, entry
    if isinstance(entry, dict):
        text = next((entry[key] for key in TEXT_KEYS if entry.get(key) is not None), None)
        name = entry.get("name")
        if isinstance(text, str) and (name is None or isinstance(name, str)):
            return name, text
    raise StoreError(f"{location}: expected a text, or an object with `template` and `name`")

"""Questions with options of an evaluation that a YAML file describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from cai.catalog.evaluation_file import Described, filled, filled_chat
from cai.errors import StoreError
from cai.evals.choices import ChoiceItem
from cai.evals.formats import choice_item


def described_choices(
    described: Described, rows: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[ChoiceItem]:
    """The questions of the data's (location, row)s, each its own cluster.

    Raises:
        StoreError: a row lacks a column that the file names, or its answer is no option.
    """
    items: dict[str, ChoiceItem] = {}
    for location, row in rows:
        chat = filled_chat(described, location, row)
        options = _options(described, location, row)
        category = row.get("category")
        item = choice_item(
            location,
            cluster=Path(location).name,
            chat=chat,
            options=options,
            form=described.settings.form,
            right=[_right(described, location, row, options)],
            facts={"category": category} if isinstance(category, str) else {},
        )
        items.setdefault(item.id, item)
    return list(items.values())


def _options(described: Described, location: str, row: Mapping[str, Any]) -> list[str]:
    """The texts of the options."""
    settings = described.settings
    if isinstance(settings.options, str):
        listed = row.get(settings.options)
        if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
            raise StoreError(
                f"{location}: no list of texts `{settings.options}`, which"
                f" {described.source.at(('options',))} (options) names"
            )
        return listed
    templates = settings.options or ()
    return [
        filled(described, ("options", index), text, (location, row))
        for index, text in enumerate(templates)
    ]


def _right(
    described: Described, location: str, row: Mapping[str, Any], options: Sequence[str]
) -> int:
    """The index of the right option."""
    column = described.settings.answer or ""
    value = row.get(column)
    text = str(value).strip() if isinstance(value, str | int) else ""
    if text in options:
        return options.index(text)
    letter = ascii_uppercase.find(text.upper()) if len(text) == 1 and text.isalpha() else -1
    index = int(text) if text.isdecimal() else letter
    if not 0 <= index < len(options):
        raise StoreError(
            f"{location}: `{column}` is no option: write its text, its letter, or its number"
            f" from 0; {described.source.at(('answer',))} (answer) names it"
        )
    return index

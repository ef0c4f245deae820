"""Templates, style and script of the report's pages, and how they are filled.

All of a page is in one file: it loads nothing, and its content security policy says so to the
browser, with the digest of the one script that may run. Texts of models and users are escaped by
jinja2: they are data of the templates, never template source.
"""

from __future__ import annotations

import base64
import re
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from cai.report import table
from cai.report.word_diff import word_diff

SHOWN_CHARS = 600
"""Characters of a text that are visible at first; the rest is one click away."""
MAX_CHARS = 20_000
"""Characters of a text that are in the page at all."""

NO_BREAK = "\u00a0"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")


def render_page(name: str, **content: Any) -> str:
    """The page of a template of this folder. The same content gives the same bytes."""
    script = _read("browser.js")
    return (
        _environment()
        .get_template(name)
        .render(
            style=Markup(_read("style.css")),  # noqa: S704 - a file of this package
            script=Markup(script),  # noqa: S704 - a file of this package
            script_hash=script_hash(script),
            **content,
        )
    )


def script_hash(script: str) -> str:
    """The source expression by which a content security policy lets this one script run."""
    return "sha256-" + base64.b64encode(sha256(script.encode()).digest()).decode()


def _read(name: str) -> str:
    return files("cai.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_read),
    )
    environment.filters |= {
        "cell": lambda score: unbroken(table.cell(score)),
        "clean": clean,
        "number": number,
        "unbroken": unbroken,
        "word_diff": word_diff,
    }
    environment.globals |= {"shown_chars": SHOWN_CHARS, "max_chars": MAX_CHARS}
    return environment


def clean(text: object) -> str:
    """Text with U+FFFD for control characters, which HTML forbids. Line feeds and tabs stay."""
    return _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n"))


def unbroken(text: str) -> str:
    """Text whose lines do not break inside an interval, or between a number and its unit."""
    text = re.sub(r" (?=%|pp\b)", NO_BREAK, text)
    return re.sub(r"\[[^]]*\]", lambda match: match[0].replace(" ", NO_BREAK), text)


def number(value: object) -> str:
    """Floats to four significant digits, other values as they are; `–` for None."""
    if value is None:
        return table.UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else str(value)

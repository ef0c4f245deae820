"""The pages that follow from the code: commands, configuration, and the index for language models.

    python docs/generate.py            write reference/cli.md, reference/configuration.md, llms.txt
    python docs/generate.py --check    exit 1 when one of them is not what the code says

The API pages are those of api_pages.py, which writes them at each build.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from api_pages import attributes, escaped
from pydantic import BaseModel
from pydantic.fields import FieldInfo

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the code: edit the code, then run it. -->"
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


# ---- configuration ----


def configuration_page() -> str:
    """Every key of a run's YAML: type, default and docstring, a table for each section."""
    from cai.pipeline.config import Run

    intro = """\
# Configuration

A run is one YAML file. Each stage has a section of its own. Every key below can also be set on the
command line with `--set SECTION.KEY=VALUE`. Every mistake in the file is reported with its line and
the nearest valid key. The type `null` means that the key may be left empty. An unknown key is an
error.

"""
    return "\n".join([intro + NOTE, *_sections(Run, "")])


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    inner = {
        name: found
        for name, field in model.model_fields.items()
        if (found := _submodel(field.annotation))
    }
    title = f"`{prefix}`" if prefix else "Top level"
    anchor = prefix.replace(".", "-") or "top-level"
    yield f"\n{'#' * (2 + prefix.count('.'))} {title}\n"
    yield f"<!-- section: {anchor} -->\n"
    yield f"{_plain(model.__doc__ or '')}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    told = attribute_docstrings(model)
    for name, field in model.model_fields.items():
        if name in inner:
            path = f"{prefix}.{name}".lstrip(".")
            link = f"[section](#{path.replace('.', '')})"
            yield f"| `{name}` | {link} | | {_cell(told.get(name) or _summary(inner[name]))} |"
        else:
            yield f"| `{name}` | {_type(field)} | {_default(field)} | {_cell(told.get(name, ''))} |"
    if not prefix:
        yield f"\n<!-- end: {anchor} -->"
    for name, found in inner.items():
        yield from _sections(found, f"{prefix}.{name}".lstrip("."))
    if prefix:  # a section's pages include it with the sections inside it
        yield f"\n<!-- end: {anchor} -->"


def _summary(model: type[BaseModel]) -> str:
    """The first paragraph of a section's docstring."""
    return inspect.cleandoc(model.__doc__ or "").split("\n\n")[0]


def _submodel(annotation: Any) -> type[BaseModel] | None:
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def attribute_docstrings(model: type) -> dict[str, str]:
    """Name of each annotated attribute -> the string literal that follows it."""
    return dict(attributes(ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]))


def _type(field: FieldInfo) -> str:
    name = _type_name(field.annotation)
    bounds = [
        f"{sign} {getattr(part, key):g}"
        for part in field.metadata
        for key, sign in BOUNDS.items()
        if hasattr(part, key)
    ]
    return name.replace("|", "\\|") + (f", {' and '.join(bounds)}" if bounds else "")


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type_name, arguments))
    if origin is tuple:
        several = arguments[-1] is Ellipsis
        return (
            f"list of {_type_name(arguments[0])}"
            if several
            else f"list of {len(arguments)} {_type_name(arguments[0])}"
        )
    if origin is dict:
        return f"map of {_type_name(arguments[0])} to {_type_name(arguments[1])}"
    return {type(None): "null"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, tuple | list):
        value = f"[{', '.join(map(str, value))}]"
    return (
        {None: "null", True: "true", False: "false"}.get(value, f"{value}")
        if isinstance(value, bool | None)
        else f"`{value}`"
    )


# ---- commands ----


def cli_page() -> str:
    """Every command with its arguments, options and examples."""
    from typer.main import get_command

    from cai.cli import app

    intro = """\
# Command line

Data goes to standard output, progress to standard error. Exit codes are 0 for done, 1 when the job
found or failed something, 2 for wrong usage or unreadable input, 130 when interrupted and 143 when
terminated. `cai COMMAND --help` prints the same text as this page.

"""
    return "\n".join([intro + NOTE, *_commands(get_command(app), "cai")])


def _commands(command: Any, name: str) -> Iterator[str]:
    for inner_name, inner in command.commands.items():
        path = f"{name} {inner_name}"
        yield f"\n{'#' * path.count(' ')}# {path}\n"
        yield f"{_plain(inner.help or '')}\n"
        examples = re.split(r",? or (?=cai )", (inner.epilog or "").removeprefix("Example: "))
        if examples != [""]:
            yield "```\n" + "\n".join(examples) + "\n```\n"
        if getattr(inner, "commands", None):
            yield from _commands(inner, path)
        elif inner.params:
            yield "| argument or option | default | meaning |\n|---|---|---|"
            yield from map(_parameter, inner.params)


def _parameter(parameter: Any) -> str:
    argument = parameter.param_type_name == "argument"
    name = (
        f"`{parameter.metavar or parameter.name.upper()}`"
        if argument
        else ", ".join(f"`{o}`" for o in parameter.opts)
    )
    if not argument and parameter.metavar:
        name += f" `{parameter.metavar}`"
    missing = "required" if parameter.required else ""
    default = missing if parameter.default in (None, False, ()) else f"`{parameter.default}`"
    return f"| {name} | {default} | {_cell(parameter.help or '')} |"


# ---- the index for language models ----


def llms_page() -> str:
    """llms.txt: each page by title and first sentence, with the address of its Markdown."""
    lines = ["# cai", "", f"> {_first_paragraph(HERE / 'index.md')}", "", "## Pages", ""]
    for page in _pages():
        title = page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        sentence = re.split(r"(?<=[.?!])\s", _first_paragraph(page), maxsplit=1)[0]
        lines.append(f"- [{title}]({page.relative_to(HERE).as_posix()}): {sentence}")
    return "\n".join(lines) + "\n"


def _pages() -> list[Path]:
    """Pages in the order of the site's contents; generated API pages are left out."""
    found: list[Path] = []

    def visit(page: Path) -> None:
        found.append(page)
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                target = (page.parent / f"{line.strip()}.md").resolve()
                if (
                    line.strip()
                    and not line.startswith(":")
                    and target.exists()
                    and "api" not in target.parts
                ):
                    visit(target)

    visit(HERE / "index.md")
    return found


def _first_paragraph(page: Path) -> str:
    body = page.read_text(encoding="utf-8").split("\n", 1)[1].strip().split("\n\n")[0]
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", body)
    return " ".join(plain.split())


def _plain(docstring: str) -> str:
    return escaped(inspect.cleandoc(docstring))


def _cell(text: str) -> str:
    return escaped(" ".join(text.split()))


# ---- writing ----

PAGES = {
    "reference/cli.md": cli_page,
    "reference/configuration.md": configuration_page,
    "llms.txt": llms_page,
}


def stale() -> list[str]:
    """Generated pages that are not what the code says now."""
    return [
        name
        for name, page in PAGES.items()
        if not (HERE / name).exists()
        or (HERE / name).read_text(encoding="utf-8") != page().rstrip("\n") + "\n"
    ]


def main() -> int:
    wrong = stale()
    if "--check" not in sys.argv:
        for name in wrong:
            (HERE / name).write_text(PAGES[name]().rstrip("\n") + "\n", encoding="utf-8")
    for name in wrong:
        print(f"docs/{name}: {'not current' if '--check' in sys.argv else 'written'}")
    return int("--check" in sys.argv and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

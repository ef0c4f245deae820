"""The API pages, written at each build from the source, without importing it.

Every public class and function with a docstring, by package. `cai.cli` is left out: its functions
are the commands, which have a page of their own.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "cai"


def write_api_pages(folder: Path) -> None:
    """A page for each package of cai/, and one for the modules at its top."""
    folder.mkdir(exist_ok=True)
    groups: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).parts
        if inside[0] != "cli":  # its functions are commands, which have a page of their own
            groups.setdefault(inside[0] if len(inside) > 1 else "cai", []).append(path)
    wanted = {}
    for name, files in groups.items():
        title = "cai" if name == "cai" else f"cai.{name}"
        pages = [text for path in files if (text := _module_page(path))]
        wanted[f"{name}.md"] = f"# {title}\n\n" + "\n".join(pages)
    listing = "\n".join(name.removesuffix(".md") for name in sorted(wanted))
    wanted["index.md"] = (
        "# Python API\n\nEvery public class and function, by package, from the docstrings. "
        "The names that other programs may rely on are those of the module `cai`; the rest may "
        "change between versions.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listing}\n```\n"
    )
    for old in folder.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _module_page(path: Path) -> str:
    parts = ("cai", *path.relative_to(PACKAGE).with_suffix("").parts)
    name = ".".join(parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [text for node in tree.body if (text := _documented(node, name))]
    docstring = ast.get_docstring(tree)
    if not docstring and not blocks:
        return ""
    head = f"## {name}\n\n:::{{py:module}} {name}\n:::\n"
    return "\n".join([head, _markdown(docstring or ""), *blocks])


def _documented(node: ast.AST, module: str) -> str:
    """The entry of a public function or class with a docstring; empty for anything else."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _public(node):
        return _entry(
            "function", f"{module}.{_signature(node)}", _markdown(ast.get_docstring(node) or ""), 4
        )
    if isinstance(node, ast.ClassDef) and _public(node):
        body = [_markdown(ast.get_docstring(node) or "")]
        for name, text in attributes(node):
            if not name.startswith("_"):
                annotation = next(
                    n for n in node.body if isinstance(n, ast.AnnAssign) and n.target.id == name
                )
                body.append(
                    _entry(
                        "attribute",
                        name,
                        _markdown(text),
                        4,
                        type=ast.unparse(annotation.annotation),
                    )
                )
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and _public(inner):
                body.append(
                    _entry(
                        "method",
                        _signature(inner, method=True),
                        _markdown(ast.get_docstring(inner) or ""),
                        4,
                    )
                )
        return _entry("class", f"{module}.{node.name}", "\n\n".join(filter(None, body)), 6)
    return ""


def _public(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    return not node.name.startswith("_") and bool(ast.get_docstring(node))


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, method: bool = False) -> str:
    arguments = ast.parse(ast.unparse(node)).body[0].args  # type: ignore[attr-defined]
    if method and arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(arguments)}){returns}"


def _entry(kind: str, signature: str, body: str, colons: int, **options: str) -> str:
    fence = ":" * colons
    told = "".join(f":{name}: {value}\n" for name, value in options.items())
    return f"\n{fence}{{py:{kind}}} {signature}\n{told}\n{body}\n{fence}\n"


def _markdown(docstring: str) -> str:
    """A docstring as Markdown: `Args:` and the like become lists, indented formulas stay code."""
    lines, out, listed = docstring.splitlines(), [], False
    for line in lines:
        if re.fullmatch(r"(Args|Returns|Raises|Yields):", line):
            out += ["", f"**{line}**", ""]
            listed = line != "Returns:"
        elif listed and re.match(r"    \S", line):
            out.append(f"- {escaped(line.strip())}")
        elif listed and line.startswith("     "):
            out.append(f"  {escaped(line.strip())}")
        elif out and out[-1] == "" and len(out) > 1 and out[-2] == "**Returns:**":
            out.append(escaped(line.strip()))
        else:
            listed = listed and not line.strip()
            out.append(line if line.startswith("    ") else escaped(line))
    return "\n".join(out)


def escaped(line: str) -> str:
    """Markdown's own signs as plain text, outside of `code`."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<>|\[\]#])", r"\\\1", part) for part in parts
    )


def attributes(body: Any) -> Iterator[tuple[str, str]]:
    """Name of each annotated attribute of a class, and the string literal that follows it."""
    following = [*body.body[1:], None]
    for node, after in zip(body.body, following, strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else ""
            )
            yield node.target.id, inspect.cleandoc(str(text))

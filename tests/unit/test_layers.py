"""Architecture is a test: a module imports only from layers before its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import cai

LAYERS = [
    "errors",
    "json_input",
    "shipped",
    "seeds",
    "probability",
    "records",
    "terminal_text",
    "progress",
    "artifacts",
    "statistics",
    "files",
    "locks",
    "store",
    "async_map",
    "process_map",
    "constitution",
    "reply_parsing",
    "templates",
    "data",
    "modeling",
    "lm",
    "generate",
    "rubric",
    "reward",
    "train",
    "graders",
    "attacks",
    "evals",
    "catalog",
    "report",
    "review",
    "integrations",
    "simulation",
    "pipeline",
    "api",
    "cli",
]


def imported(path: Path) -> Iterator[str]:
    """The first name below `cai` of every import in a file, those inside functions too. Relative
    imports are not used.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [base] if base != "cai" else [f"cai.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (
            name.split(".")[1] if name.startswith("cai.") else name
            for name in names
            if name.startswith(("cai.", "."))
        )


def offences(root: Path, layers: Sequence[str]) -> Iterator[str]:
    """`file imports layer`, for each import of a later layer, and each file or import that belongs
    to no layer.
    """
    for path in sorted(root.rglob("*.py")):
        own = path.relative_to(root).parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # the package's front door: it opens any room, when asked
        for other in imported(path):
            if own not in layers or other not in layers or layers.index(other) > layers.index(own):
                yield f"{path.relative_to(root)} imports {other}"


def test_layers() -> None:
    assert list(offences(Path(cai.__file__).parent, LAYERS)) == []


def test_every_layer_that_exists_is_in_order() -> None:
    """Nothing in the package is outside the list, imports or not."""
    root = Path(cai.__file__).parent
    assert {
        p.name.removesuffix(".py")
        for p in root.iterdir()
        if p.suffix in ("", ".py") and p.name[0] != "_"
    } <= set(LAYERS)


def test_offences_are_found(tmp_path: Path) -> None:
    """Made-up packages: up one layer, inside a function, in every spelling; and what is allowed."""
    (tmp_path / "lm").mkdir()
    (tmp_path / "__init__.py").write_text("from cai.train import ppo\n")
    (tmp_path / "errors.py").write_text("def f():\n    from cai import store\n")
    (tmp_path / "store.py").write_text("import cai.errors, cai.lm.local as local\n")
    (tmp_path / "lm" / "chat.py").write_text(
        "from cai.lm.base import LM\nfrom cai.store import x\nimport caique, torch\n"
    )
    (tmp_path / "lm" / "base.py").write_text("from ..store import x\n")
    (tmp_path / "stray.py").write_text("from cai.errors import x\n")
    assert list(offences(tmp_path, ["errors", "store", "lm"])) == [
        "errors.py imports store",
        "lm/base.py imports ..store",
        "store.py imports lm",
        "stray.py imports errors",
    ]

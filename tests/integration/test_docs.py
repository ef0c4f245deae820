"""The documentation as a whole: generated pages, the tree of modules, links, and the build."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from docs_pages import DOCS, PAGES, ROOT, fences, name_of

import cai

TREE = "<!-- tree -->"
BUILDERS = ("sphinx", "myst_parser", "furo")


# ---- generated pages ----


def test_generated_pages_are_current() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run docs/generate.py: {done.stdout}{done.stderr}"


def test_the_index_for_language_models_names_every_page() -> None:
    named = set(re.findall(r"\]\(([^)]+)\)", (DOCS / "llms.txt").read_text(encoding="utf-8")))
    assert named == {page.relative_to(DOCS).as_posix() for page in PAGES}


# ---- the architecture tree ----


def tree_paths(text: str) -> list[str]:
    """The paths of the block after `<!-- tree -->`: the first word of each line that has one."""
    return [
        line.split()[0].rstrip("/")
        for before, _, inside in fences(text)
        if before == TREE
        for line in inside.splitlines()
        if line.strip()
    ]


def present(root: Path) -> set[str]:
    """What the tree must name: every module of cai/, and all beside it.

    Hidden files and a run's folder are left out.
    """
    top = {p.name for p in root.iterdir() if not p.name.startswith((".", "_")) and p.name != "runs"}
    modules = {
        p.relative_to(root).as_posix()
        for p in (root / "cai").rglob("*.py")
        if p.name != "__init__.py"
    }
    packages = {p.parent.relative_to(root).as_posix() for p in (root / "cai").rglob("__init__.py")}
    return top | modules | packages


def unnamed(paths: list[str], root: Path) -> list[str]:
    """What is there and in no line. A folder is named by any line of its own or below it."""
    named = {parent.as_posix() for path in paths for parent in (Path(path), *Path(path).parents)}
    return sorted(present(root) - named)


def test_the_architecture_tree_is_the_package() -> None:
    paths = tree_paths((DOCS / "architecture.md").read_text(encoding="utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert unnamed(paths, ROOT) == []


def test_the_architecture_page_has_the_layers() -> None:
    spec = spec_from_file_location("layers", ROOT / "tests" / "unit" / "test_layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    told = [
        inside.split()
        for _, _, inside in fences((DOCS / "architecture.md").read_text(encoding="utf-8"))
    ]
    assert module.LAYERS in told


def test_a_wrong_tree_is_noticed() -> None:
    text = f"# x\n\n{TREE}\n```\ncai/store.py   files\ncai/gone.py   no such file\nMakefile\n```\n"
    paths = tree_paths(text)
    assert paths == ["cai/store.py", "cai/gone.py", "Makefile"]
    missing = unnamed(paths, ROOT)
    assert {"cai/errors.py", "cai/lm", "cai/lm/local.py", "pyproject.toml"} <= set(missing)
    assert not {"cai", "cai/store.py", "Makefile"} & set(missing)


# ---- links ----


def anchors(page: Path) -> set[str]:
    """Headings as GitHub and the site name them, and explicit targets."""
    text = page.read_text(encoding="utf-8")
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles} | set(
        re.findall(r"^\((\S+)\)=$", text, re.MULTILINE)
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_internal_links_resolve(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    wrong = []
    for target in re.findall(r"(?<!\\)\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        generated = file.parent == DOCS / "reference" / "api"
        if not generated and (
            not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file))
        ):
            wrong.append(target)
    assert wrong == []


# ---- the build ----


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in BUILDERS if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'cai[docs]'")
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(tmp_path / "trees"),
        "-D",
        "toc_object_entries=0",  # every page lists every function of the API: half of the time
    ]
    done = subprocess.run(
        [*command, str(DOCS), str(site)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (site / "llms.txt").read_text(encoding="utf-8") == (DOCS / "llms.txt").read_text(
        encoding="utf-8"
    )
    for page in PAGES:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).exists()
        assert (site / page.relative_to(DOCS)).exists()
    assert loaded_from_elsewhere(site) == []


def loaded_from_elsewhere(site: Path) -> list[str]:
    """Scripts, styles, fonts and images that a page would fetch from another host."""
    tags = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)\"")
    styles = re.compile(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)")
    pages = [
        hit
        for file in site.rglob("*.html")
        for hit in tags.findall(file.read_text(encoding="utf-8"))
    ]
    sheets = [
        hit
        for file in site.rglob("*.css")
        for hit in styles.findall(file.read_text(encoding="utf-8"))
    ]
    return pages + sheets


def test_what_the_package_exports_is_on_the_python_page() -> None:
    text = (DOCS / "guides" / "python.md").read_text(encoding="utf-8")
    errors = {name for name in cai.__all__ if name.endswith("Error")}
    internal = {"__version__", "Constitution"} | errors
    assert [name for name in cai.__all__ if name not in internal and f"`{name}" not in text] == []
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert [name for name in sorted(errors) if f"`{name}`" not in page] == []

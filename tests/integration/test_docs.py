"""The documentation against the code: generated pages, modules, commands, settings, rows, snippets, links, the build."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

import cai
from cai import records
from cai.cli import app
from cai.constitution import load_constitution
from cai.pipeline.config import Run
from cai.rubric import compile_rubric, grade

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TREE = "<!-- tree -->"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "api"} & set(path.relative_to(DOCS).parts))
AHEAD = "reward_weights" not in Run.model_fields or "init" not in get_command(app).commands  # type: ignore[attr-defined]
"""The pages already use names that settings and commands are about to get."""
BUILDERS = ("sphinx", "myst_parser", "furo", "sphinx_copybutton")


def fences(text: str) -> Iterator[tuple[str, str, str]]:
    """(line before the fence, its language, what is inside) of every fenced block."""
    pattern = r"^(?:(\S[^\n]*)\n+)?```([^\n]*)\n(.*?)^```$"
    yield from re.findall(pattern, text, re.MULTILINE | re.DOTALL)


def blocks(marker: str) -> list[tuple[str, str]]:
    """(page, block) of every fenced block after a line that matches `marker`."""
    return [
        (page.relative_to(DOCS).as_posix(), inside)
        for page in PAGES
        for before, _, inside in fences(page.read_text(encoding="utf-8"))
        if re.fullmatch(marker, before)
    ]


# ---- generated pages ----


def generator() -> Any:
    spec = spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_current() -> None:
    assert generator().stale() == [], "run: python docs/generate.py"


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
    """What the tree must name: every module of cai/, and all beside it but hidden files and what is made locally."""
    top = {p.name for p in root.iterdir() if not p.name.startswith((".", "_")) and p.name != "runs"}
    modules = {p.relative_to(root).as_posix() for p in (root / "cai").rglob("*.py") if p.name != "__init__.py"}
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
    told = [inside.split() for _, _, inside in fences((DOCS / "architecture.md").read_text(encoding="utf-8"))]
    assert module.LAYERS in told


def test_a_wrong_tree_is_noticed() -> None:
    text = f"# x\n\n{TREE}\n```\ncai/store.py   files\ncai/gone.py   no such file\nMakefile\n```\n"
    paths = tree_paths(text)
    assert paths == ["cai/store.py", "cai/gone.py", "Makefile"]
    missing = unnamed(paths, ROOT)
    assert {"cai/errors.py", "cai/lm", "cai/lm/local.py", "pyproject.toml"} <= set(missing)
    assert not {"cai", "cai/store.py", "Makefile"} & set(missing)


# ---- commands ----


def commands(text: str) -> list[list[str]]:
    """Words of the `cai` and `make` command lines in fenced blocks, with or without a prompt sign; comments dropped."""
    lines = [
        re.sub(r"^\$ ", "", line.strip()) for before, _, inside in fences(text) if before != TREE for line in inside.splitlines()
    ]
    starts = ("cai ", "make ", ".venv/bin/cai ")
    return [shlex.split(line, comments=True) for line in lines if line.startswith(starts)]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def objection(words: list[str]) -> str | None:
    """Why a command line is not one of ours; None when it is: a known command with known options only."""
    if words[0] == "make":
        wrong = {word for word in words[1:] if "=" not in word and word[0] != "-"} - targets()
        return f"no target {', '.join(sorted(wrong))}" if wrong else None
    command: Any = get_command(app)
    rest = words[1:]
    while getattr(command, "commands", None):
        if not rest or rest[0] not in command.commands:
            return None if rest == ["--help"] else f"no command {' '.join(rest[:1])}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in getattr(parameter, "opts", [])} | {"--help"}
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:
            return f"no option {word}"
    settings = [word for before, word in pairwise(rest) if before == "--set"]
    model = Run if "file" in {parameter.name for parameter in command.params} else None
    return next((wrong for setting in settings if model and (wrong := unknown_key(setting, model))), None)


def unknown_key(setting: str, model: type[BaseModel]) -> str | None:
    """Why `a.b=value` names no setting of a run."""
    here: Any = model
    for part in setting.partition("=")[0].split("."):
        if not (isinstance(here, type) and issubclass(here, BaseModel)) or part not in here.model_fields:
            return f"no setting {setting}"
        here = here.model_fields[part].annotation
    return None


@pytest.mark.skipif(AHEAD, reason="the pages use names that settings and commands are about to get")
@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_and_options_exist(page: Path) -> None:
    found = commands(page.read_text(encoding="utf-8"))
    wrong = [f"{' '.join(words)}: {why}" for words in found if (why := objection(words))]
    assert wrong == []


SECTIONS = {"hygiene", "http", "prices", "revise", "sft", "pair", "ppo", "reward_weights", "eval"}
PPO_SECTIONS = {"rollout", "advantage", "optimization", "kl", "ptx"}
NOT_SETTINGS = {"kl.mean"}
"""Metrics that look like settings."""


@pytest.mark.skipif(AHEAD, reason="the pages use names that settings and commands are about to get")
def test_settings_named_on_the_pages_exist() -> None:
    """`sft.max_length`, and within `ppo` also `kl.target`."""
    wrong = []
    for page in [ROOT / "README.md", *PAGES]:
        for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?::[^`]*)?`", page.read_text(encoding="utf-8")):
            section = key.partition(".")[0]
            path = f"ppo.{key}" if section in PPO_SECTIONS else key
            known = section in SECTIONS | PPO_SECTIONS and key not in NOT_SETTINGS
            if known and (why := unknown_key(path, Run)):
                wrong.append(f"{page.relative_to(ROOT)}: {why}")
    assert wrong == []


def test_some_commands_are_found() -> None:
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 50


def test_files_given_to_commands_exist() -> None:
    """Constitutions, runs and prompts that a command reads; what comes after --output is made by it."""
    found = [words for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
    given = [b for words in found for a, b in pairwise(words) if a != "--output"]
    named = {word for word in given if word.startswith(("examples/", "constitutions/"))}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("cai fly", "no command fly"),
        ("cai run x.yaml --quickly", "no option --quickly"),
        ("cai log stats x --deep", "no option --deep"),
        ("cai run x.yaml --set seed=1", None),
        ("cai run x.yaml --set ppo.seeed=1", "no setting ppo.seeed=1"),
        ("cai run --help", None),
        ("make demo PYTHON=python3", None),
        ("make coffee", "no target coffee"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, why: str | None) -> None:
    assert objection(line.split()) == why


# ---- examples on the pages ----

ROWS = [
    (page, kind, line)
    for kind in ("Prompt", "Revision", "Pair", "Preference", "EvalReply", "Score")
    for page, inside in blocks(f"<!-- row: {kind} -->")
    for line in inside.splitlines()
]


@pytest.mark.parametrize(("page", "kind", "line"), ROWS)
def test_example_rows_are_rows(page: str, kind: str, line: str) -> None:
    """The type accepts it, and its id is that of its content."""
    row = getattr(records, kind).model_validate_json(line)
    assert row.id == json.loads(line)["id"]


def test_every_artefact_with_rows_has_an_example() -> None:
    assert {kind for _, kind, _ in ROWS} == {"Prompt", "Revision", "Pair", "Preference", "EvalReply", "Score"}


def test_example_constitutions_load(tmp_path: Path) -> None:
    found = blocks("<!-- yaml: constitution -->")
    assert found
    for page, inside in found:
        file = tmp_path / "mine.yaml"
        file.write_text(inside.replace("extends: [harmless]", f"extends: [{ROOT / 'constitutions' / 'harmless.yaml'}]"))
        assert load_constitution(file).principles, page


def test_example_yaml_is_yaml() -> None:
    for _, inside in blocks("<!-- yaml: .* -->"):
        yaml.safe_load(inside)


def test_the_example_grade_is_what_the_rubric_says() -> None:
    [(_, inside)] = blocks("<!-- grade -->")
    told = json.loads(inside)
    constitution = load_constitution(ROOT / "constitutions" / "harmless.yaml")
    assert constitution.rubric is not None
    found = grade(compile_rubric(constitution.rubric), prompt=told["prompt"], response=told["response"], kind=told["kind"])
    assert (found.class_, found.style, found.degree, found.correct) == (
        told["class"],
        told["style"],
        told["degree"],
        told["correct"],
    )
    assert found.score == pytest.approx(told["score"])


def printed(page: str, command: str) -> list[str]:
    """What a page shows below a command, up to the next one or the fence's end."""
    for _, _, inside in fences((DOCS / page).read_text(encoding="utf-8")):
        lines = inside.splitlines()
        if f"$ {command}" in lines:
            below = lines[lines.index(f"$ {command}") + 1 :]
            return below[: next((i for i, line in enumerate(below) if line.startswith("$ ")), len(below))]
    raise AssertionError(f"{page}: no line $ {command}")


def test_the_worked_label_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "stages/label.md"
    command = "cai label --constitution helpful_honest --model fake:brief --input examples/pairs.jsonl --output labelled.jsonl"
    assert printed(page, command) == []
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, shlex.split(command)[1:])
    assert found.exit_code == 0, found.output
    lines = (tmp_path / "labelled.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)
    pairs = (ROOT / "examples" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert printed(page, "head -1 examples/pairs.jsonl") == pairs[:1]
    [shown] = map(json.loads, printed(page, "head -1 labelled.jsonl"))
    assert first["p_first"] == pytest.approx(1 / (1 + math.exp(2)), abs=1e-15)
    assert flat(first) == pytest.approx(flat(shown), abs=1e-12)
    assert (second["p_first"], second["unscored"]) == (None, "the two replies are the same")


def flat(value: object, key: str = "") -> dict[str, object]:
    """Leaves by path, so that numbers can be compared approximately."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return {key: value}
    return {k: v for name, inner in pairs for k, v in flat(inner, f"{key}/{name}").items()}


@pytest.mark.skipif("revise" not in cai.__all__, reason="the functions of the module cai are about to come")
@pytest.mark.parametrize(("page", "code"), blocks("<!-- run -->"))
def test_snippets_run(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python blocks after `<!-- run -->`, on fake models: once plainly, and once inside a running event loop."""
    monkeypatch.chdir(tmp_path)
    compiled = compile(code, page, "exec")
    exec(compiled, {})  # noqa: S102  # the project's own page

    async def notebook() -> None:
        exec(compiled, {})  # noqa: S102

    asyncio.run(notebook())


# ---- links ----


def anchors(page: Path) -> set[str]:
    """Headings as GitHub and the site name them, and explicit targets."""
    text = page.read_text(encoding="utf-8")
    bare = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", bare, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles} | set(
        re.findall(r"^\((\S+)\)=$", text, re.MULTILINE)
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_internal_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    wrong = []
    for target in re.findall(r"(?<!\\)\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        generated = file.parent == DOCS / "reference" / "api"
        if not generated and (not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file))):
            wrong.append(target)
    assert wrong == []


# ---- the build ----


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in BUILDERS if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'cai[docs]'")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, str(DOCS), str(site)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (site / "llms.txt").read_text(encoding="utf-8") == (DOCS / "llms.txt").read_text(encoding="utf-8")
    for page in PAGES:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).exists()
        assert (site / page.relative_to(DOCS)).exists()
    assert loaded_from_elsewhere(site) == []


def loaded_from_elsewhere(site: Path) -> list[str]:
    """Scripts, styles, fonts and images that a page would fetch from another host."""
    tags = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)\"")
    styles = re.compile(r"(?:@import|url\()\s*[\"']?((?:https?:)?//[^\"')]+)")
    pages = [hit for file in site.rglob("*.html") for hit in tags.findall(file.read_text(encoding="utf-8"))]
    sheets = [hit for file in site.rglob("*.css") for hit in styles.findall(file.read_text(encoding="utf-8"))]
    return pages + sheets


def test_what_the_package_exports_is_on_the_python_page() -> None:
    text = (DOCS / "guides" / "python.md").read_text(encoding="utf-8")
    errors = {name for name in cai.__all__ if name.endswith("Error")}
    internal = {"__version__", "Constitution"} | errors
    assert [name for name in cai.__all__ if name not in internal and f"`{name}" not in text] == []
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    assert [name for name in sorted(errors) if f"`{name}`" not in page] == []

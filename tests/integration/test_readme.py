"""The README against the disk: its file tree names what is there, and its commands exist."""

from __future__ import annotations

import json
import math
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from cai.artifacts import STAGES
from cai.cli import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HEAD = "<!-- tree -->"


def fences(text: str) -> list[tuple[str, list[str]]]:
    """(line before the fence, lines inside) of every fenced block."""
    found: list[tuple[str, list[str]]] = []
    inside, before = False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            if not inside:
                found.append((before, []))
            inside, before = not inside, ""
        elif inside:
            found[-1][1].append(line)
        elif line.strip():
            before = line.strip()
    return found


def tree(text: str) -> list[str]:
    """The paths of the block after `<!-- tree -->`: the first word of each line that has one."""
    return [line.split()[0].rstrip("/") for before, inside in fences(text) if before == HEAD for line in inside if line.strip()]


def commands(text: str) -> list[list[str]]:
    """Words of the `cai` and `make` command lines in fenced blocks, with or without a prompt sign; comments dropped."""
    lines = [re.sub(r"^\$ ", "", line.strip()) for before, inside in fences(text) if before != HEAD for line in inside]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("cai ", "make ", ".venv/bin/cai "))]


def present(root: Path) -> set[str]:
    """What a tree must name: every package and module of cai/, and all beside it but hidden files and what is made locally."""
    top = {p.name for p in root.iterdir() if not p.name.startswith((".", "_")) and p.name != "runs"}
    inner = {p.relative_to(root).as_posix() for p in (root / "cai").rglob("*.py") if p.name != "__init__.py"}
    packages = {p.parent.relative_to(root).as_posix() for p in (root / "cai").rglob("__init__.py")}
    return top | inner | packages


def unnamed(paths: list[str], root: Path) -> list[str]:
    """What is there and in no line. A folder is named by any line of its own or below it."""
    said = {parent.as_posix() for path in paths for parent in (Path(path), *Path(path).parents)}
    return sorted(present(root) - said)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def known(command: list[str]) -> bool:
    if command[0] == "make":
        return {word for word in command[1:] if "=" not in word and word[0] != "-"} <= targets()
    names = {"--help", *get_command(app).commands}  # type: ignore[attr-defined]
    return len(command) > 1 and command[1] in names


def test_the_tree_names_only_what_is_there() -> None:
    paths = tree(README.read_text(encoding="utf-8"))
    assert paths, f"README.md: no file tree: put {HEAD} on the line before its fence"
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_tree_names_all_that_is_there() -> None:
    assert unnamed(tree(README.read_text(encoding="utf-8")), ROOT) == []


def test_commands_exist() -> None:
    found = commands(README.read_text(encoding="utf-8"))
    assert found, "README.md: no command in it"
    assert [" ".join(command) for command in found if not known(command)] == []


def test_files_given_to_commands_exist() -> None:
    """Constitutions, runs and prompts that a command reads; what comes after --output is made by it."""
    found = commands(README.read_text(encoding="utf-8"))
    named = [b for c in found for a, b in pairwise(c) if a != "--output" and b.startswith(("examples/", "constitutions/"))]
    assert [path for path in named if not (ROOT / path).exists()] == []


def printed(command: str) -> list[str]:
    """What the README shows below a command, up to the next one or the fence's end."""
    for _, inside in fences(README.read_text(encoding="utf-8")):
        if f"$ {command}" in inside:
            below = inside[inside.index(f"$ {command}") + 1 :]
            return below[: next((i for i, line in enumerate(below) if line.startswith("$ ")), len(below))]
    raise AssertionError(f"README.md: no line $ {command}")


def test_the_worked_label_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "cai label --constitution helpful_honest --model fake:brief --input examples/pairs.jsonl --output labelled.jsonl"
    assert printed(command) == []
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, shlex.split(command)[1:])
    assert found.exit_code == 0, found.output
    first, second = (json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text(encoding="utf-8").splitlines())
    assert printed("head -1 examples/pairs.jsonl") == (ROOT / "examples" / "pairs.jsonl").read_text().splitlines()[:1]
    [shown] = map(json.loads, printed("head -1 labelled.jsonl"))
    assert first["p_first"] == pytest.approx(1 / (1 + math.exp(2)), abs=1e-15)
    assert flat(first) == pytest.approx(flat(shown), abs=1e-12)
    assert (second["p_first"], second["unscored"]) == (None, "the two replies are the same")


def flat(value: object, key: str = "") -> dict[str, object]:
    """Leaves by path, so that numbers can be compared approximately."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return {key: value}
    return {k: v for name, inner in pairs for k, v in flat(inner, f"{key}/{name}").items()}


# ---- the checks themselves, on a README that is wrong ----

WRONG = f"""\
# x

{HEAD}
```
cai/store.py      files
cai/gone.py       no such file
Makefile
```

```sh
$ cai run examples/quickstart.yaml   # ten minutes
cai fly
make demo PYTHON=python3
make coffee
python -c "cai fly"
```
"""


def test_a_wrong_readme_is_found_out() -> None:
    paths = tree(WRONG)
    assert paths == ["cai/store.py", "cai/gone.py", "Makefile"]
    missing = unnamed(paths, ROOT)
    assert "cai/errors.py" in missing
    assert "cai/lm" in missing
    assert "cai/lm/local.py" in missing
    assert "pyproject.toml" in missing
    assert not {"cai", "cai/store.py", "Makefile"} & set(missing)
    found = commands(WRONG)
    assert [c[:2] for c in found] == [["cai", "run"], ["cai", "fly"], ["make", "demo"], ["make", "coffee"]]
    assert [known(c) for c in found] == [True, False, True, False]


@pytest.mark.parametrize("name", ["check", "show", "grade", "run", *STAGES[1:]])
def test_every_command_is_known(name: str) -> None:
    assert known(["cai", name])
    assert not known(["cai", name + "s"])

"""The commands and settings that the documentation names, against the program."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from docs_pages import PAGES, ROOT, fences, name_of
from pydantic import BaseModel
from typer.main import get_command

from cai.cli import app
from cai.pipeline.config import Run


def commands(text: str) -> list[list[str]]:
    """Words of the `cai` and `make` command lines in fenced blocks, without prompt and comments."""
    lines = [
        re.sub(r"^\$ ", "", line.strip())
        for _, _, inside in fences(text)
        for line in inside.splitlines()
    ]
    starts = ("cai ", "make ", ".venv/bin/cai ")
    return [shlex.split(line, comments=True) for line in lines if line.startswith(starts)]


def targets() -> set[str]:
    return set(
        re.findall(
            r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
    )


def objection(words: list[str]) -> str | None:
    """Why a command line is not one of ours; None for a known command with known options only."""
    if words[0] == "make":
        wrong = {word for word in words[1:] if "=" not in word and word[0] != "-"} - targets()
        return f"no target {', '.join(sorted(wrong))}" if wrong else None
    command: Any = get_command(app)
    rest = words[1:]
    while getattr(command, "commands", None):
        if not rest or rest[0] not in command.commands:
            return None if rest == ["--help"] else f"no command {' '.join(rest[:1])}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {
        option for parameter in command.params for option in getattr(parameter, "opts", [])
    } | {"--help"}
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:
            return f"no option {word}"
    settings = [word for before, word in pairwise(rest) if before == "--set"]
    model = Run if "file" in {parameter.name for parameter in command.params} else None
    return next(
        (wrong for setting in settings if model and (wrong := unknown_key(setting, model))), None
    )


def unknown_key(setting: str, model: type[BaseModel]) -> str | None:
    """Why `a.b=value` names no setting of a run."""
    here: Any = model
    for part in setting.partition("=")[0].split("."):
        if (
            not (isinstance(here, type) and issubclass(here, BaseModel))
            or part not in here.model_fields
        ):
            return f"no setting {setting}"
        here = here.model_fields[part].annotation
    return None


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    found = commands(page.read_text(encoding="utf-8"))
    wrong = [f"{' '.join(words)}: {why}" for words in found if (why := objection(words))]
    assert wrong == []


SECTIONS = {"hygiene", "http", "prices", "revise", "sft", "pair", "ppo", "reward_weights", "eval"}
PPO_SECTIONS = {"rollout", "advantage", "optimization", "kl", "ptx"}
NOT_SETTINGS = {"kl.mean"}
"""Metrics that look like settings."""


def test_settings_named_on_the_pages_exist() -> None:
    """`sft.max_length`, and within `ppo` also `kl.target`."""
    wrong = []
    for page in [ROOT / "README.md", *PAGES]:
        for key in re.findall(
            r"`([a-z_]+(?:\.[a-z_]+)+)(?::[^`]*)?`", page.read_text(encoding="utf-8")
        ):
            section = key.partition(".")[0]
            path = f"ppo.{key}" if section in PPO_SECTIONS else key
            known = section in SECTIONS | PPO_SECTIONS and key not in NOT_SETTINGS
            if known and (why := unknown_key(path, Run)):
                wrong.append(f"{page.relative_to(ROOT)}: {why}")
    assert wrong == []


def test_some_commands_are_found() -> None:
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 50


def test_files_given_to_commands_exist() -> None:
    """Constitutions, runs and prompts that a command reads. What comes after --output is made."""
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

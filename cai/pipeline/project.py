"""A new project: a commented run, a constitution, and prompts, ready to edit and to run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from cai.errors import UsageError
from cai.files import atomic_write
from cai.locks import is_working_file, locked_name
from cai.shipped import PROJECT, PROMPTS

RUN_NAME = "name: my-project\n"
"""The line of the shipped run that gets the project's own name."""


def create_project(folder: Path) -> list[Path]:
    """Write `run.yaml`, `constitution.yaml` and `prompts/` into a new or empty folder.

    Returns:
        The files, in the order in which one would read them.

    A project that a kill has cut short is completed.

    Raises:
        UsageError: the folder has something else in it, or cannot be written.
        StoreError: another process writes this project.
    """
    texts = _texts(folder)
    _refuse_foreign(folder, texts)
    try:
        (folder / "prompts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None
    with locked_name(folder / "run.yaml"):
        for name, text in texts.items():
            atomic_write(folder / name, text)
    return [folder / name for name in texts]


def _texts(folder: Path) -> dict[str, str]:
    """Path in the project -> content."""
    texts = {
        "run.yaml": (PROJECT / "run.yaml").read_text(encoding="utf-8"),
        "constitution.yaml": (PROJECT / "constitution.yaml").read_text(encoding="utf-8"),
    }
    texts["run.yaml"] = texts["run.yaml"].replace(RUN_NAME, f"name: {_run_name(folder)}\n", 1)
    for file in sorted(PROMPTS.glob("*.jsonl")):
        texts[f"prompts/{file.name}"] = file.read_text(encoding="utf-8")
    return texts


def _refuse_foreign(folder: Path, texts: Mapping[str, str]) -> None:
    """Nothing, if the folder is new, is empty, or holds a part of the project and nothing else."""
    if folder.is_dir():
        entries = [path for path in folder.rglob("*") if path != folder / "prompts"]
        names = {str(p.relative_to(folder)): p for p in entries if not is_working_file(p)}
        is_unfinished = names.keys() < texts.keys() or len(names) < len(entries)
        if is_unfinished and all(
            name in texts and path.is_file() and path.read_bytes() == texts[name].encode()
            for name, path in names.items()
        ):
            return
    if os.path.lexists(folder):
        raise UsageError(f"{folder}: there is something already: name a new or an empty folder")


def _run_name(folder: Path) -> str:
    """The folder's name as a run may be called: letters, digits, dots, dashes, underscores."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-")
    return name or "my-project"

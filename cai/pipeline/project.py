"""A new project: a commented run, a constitution, and prompts, ready to edit and to run."""

from __future__ import annotations

import re
from pathlib import Path

from cai.errors import UsageError
from cai.shipped import PROJECT, PROMPTS
from cai.store import atomic_write

RUN_NAME = "name: my-project\n"
"""The line of the shipped run that gets the project's own name."""


def create_project(folder: Path) -> list[Path]:
    """Write `run.yaml`, `constitution.yaml` and `prompts/` into a new or empty folder.

    Returns:
        The files, in the order in which one would read them.

    Raises:
        UsageError: the folder has something in it, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: there is something already: name a new or an empty folder")
    texts = {
        "run.yaml": (PROJECT / "run.yaml").read_text(encoding="utf-8"),
        "constitution.yaml": (PROJECT / "constitution.yaml").read_text(encoding="utf-8"),
    }
    texts["run.yaml"] = texts["run.yaml"].replace(RUN_NAME, f"name: {_run_name(folder)}\n", 1)
    for file in sorted(PROMPTS.glob("*.jsonl")):
        texts[f"prompts/{file.name}"] = file.read_text(encoding="utf-8")
    try:
        (folder / "prompts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written: {error.strerror}") from None
    for name, text in texts.items():
        atomic_write(folder / name, text)
    return [folder / name for name in texts]


def _run_name(folder: Path) -> str:
    """The folder's name as a run may be called: letters, digits, dots, dashes, underscores."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-")
    return name or "my-project"

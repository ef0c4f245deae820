"""Export of a run's prompts to trainers that draw replies themselves, with the reward's plug-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from cai import store
from cai.artifacts import PROMPTS
from cai.data.writers import Columns, write_parquet
from cai.errors import StoreError
from cai.integrations.export import exists_finished
from cai.integrations.plugins import plugin_source
from cai.records import Prompt, message_dicts

VERL: Columns = {
    "data_source": "text",
    "prompt": "chat",
    "reward_model": ("style", "ground_truth"),
    "extra_info": ("chat", "kind", "id"),
}
Engine = Literal["areal", "openrlhf", "verifiers", "verl"]
PLUGINS: dict[Engine, tuple[str, str]] = {
    "areal": ("areal_reward", "areal_reward"),
    "openrlhf": ("openrlhf_reward", "openrlhf_reward"),
    "verifiers": ("verifiers_environment", "cai_constitution"),
    "verl": ("verl_reward", "verl_reward"),
}
"""Engine -> the plug-in's module here, and its name in the exported folder."""
PYPROJECT = """[project]
name = "cai-constitution"
version = "{version}"
requires-python = ">=3.11"
dependencies = ["verifiers>=0.4"]

[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[tool.setuptools]
packages = ["cai_constitution"]

[tool.setuptools.package-data]
cai_constitution = ["*.jsonl"]
"""


def export_engine(run: Path, out: Path, engine: Engine) -> int:
    """Write a run's training prompts in an engine's format, and its reward plug-in beside them.

    The plug-in gets its rewards from `cai serve-reward`.

    Returns:
        Number of prompts.

    Raises:
        StoreError: there are no prompts, `out` exists, or another process exports to it.
    """
    if not exists_finished(run / PROMPTS):
        raise StoreError(f"{run / PROMPTS}: not made yet: run the first stage")
    prompts = store.read_rows(run / PROMPTS, Prompt)
    module, name = PLUGINS[engine]
    with store.new_folder(out), store.atomic_directory(out) as folder:
        if engine == "verl":
            count = write_parquet(folder / "train.parquet", map(_verl_row, prompts), VERL)
        elif engine == "openrlhf":
            count = _write_lines(folder / "train.jsonl", _openrlhf_row, prompts)
        elif engine == "areal":
            count = _write_lines(folder / "train.jsonl", _areal_row, prompts)
        else:
            return _write_package(folder, plugin_source(module), prompts)
        store.atomic_write(folder / f"{name}.py", plugin_source(module))
    return count


def _write_package(folder: Path, source: str, prompts: Iterable[Prompt]) -> int:
    """The environment as a package: engines find it by the name of its module."""
    package = folder / "cai_constitution"
    package.mkdir()
    store.atomic_write(folder / "pyproject.toml", PYPROJECT.format(version=version("cai")))
    store.atomic_write(package / "__init__.py", source)
    return _write_lines(package / "prompts.jsonl", _verifiers_row, prompts)


def _verl_row(prompt: Prompt) -> dict[str, Any]:
    turns = message_dicts(prompt.chat)
    return {
        "data_source": "cai",
        "prompt": turns,
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {
            "chat": json.dumps(turns, ensure_ascii=False),
            "kind": prompt.kind,
            "id": prompt.id,
        },
    }


def _openrlhf_row(prompt: Prompt) -> dict[str, Any]:
    turns = message_dicts(prompt.chat)
    label = json.dumps({"chat": turns, "kind": prompt.kind}, ensure_ascii=False)
    return {"input": turns, "label": label}


def _areal_row(prompt: Prompt) -> dict[str, Any]:
    return {"messages": message_dicts(prompt.chat), "kind": prompt.kind, "id": prompt.id}


def _verifiers_row(prompt: Prompt) -> dict[str, Any]:
    return {"chat": message_dicts(prompt.chat), "kind": prompt.kind, "id": prompt.id}


def _write_lines(
    path: Path, row: Callable[[Prompt], dict[str, Any]], prompts: Iterable[Prompt]
) -> int:
    def lines() -> Iterator[str]:
        for prompt in prompts:
            yield json.dumps(row(prompt), ensure_ascii=False) + "\n"

    written = list(lines())
    store.atomic_write(path, "".join(written))
    return len(written)

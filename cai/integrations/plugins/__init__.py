"""The reward in other trainers, as files that they load by path or by name."""

from __future__ import annotations

import ast
from importlib.resources import files

CLIENT = "cai.integrations.plugins.reward_client"


def plugin_source(name: str) -> str:
    """The text of a plug-in, with the client in place of its import.

    The engines' workers load one file, and may run where cai is not installed.

    Args:
        name: of the module, for example "verl_reward".
    """
    package = files("cai.integrations.plugins")
    plugin = package.joinpath(f"{name}.py").read_text(encoding="utf-8")
    client = package.joinpath("reward_client.py").read_text(encoding="utf-8")
    lines = plugin.splitlines(keepends=True)
    for statement in ast.parse(plugin).body:
        if isinstance(statement, ast.ImportFrom) and statement.module == CLIENT:
            head, rest = lines[: statement.lineno - 1], lines[statement.end_lineno :]
            return "".join([*head, client, *rest])
    raise ValueError(f"{name}.py does not import from {CLIENT}")

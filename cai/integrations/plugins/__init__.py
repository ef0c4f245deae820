"""The reward in other trainers, as files that they load by path."""

from __future__ import annotations

from importlib.resources import files

CLIENT_IMPORT = "from cai.integrations.plugins.reward_client import MEMORY, RequestFailure, post\n"


def plugin_source(engine: str) -> str:
    """The text of an engine's plug-in, with the client in place of its import.

    The engine's workers load one file, and may run where cai is not installed.

    Args:
        engine: "openrlhf" or "verl".
    """
    package = files("cai.integrations.plugins")
    plugin = package.joinpath(f"{engine}_reward.py").read_text(encoding="utf-8")
    client = package.joinpath("reward_client.py").read_text(encoding="utf-8")
    head, statement, functions = plugin.partition(CLIENT_IMPORT)
    if not statement:
        raise ValueError(f"{engine}_reward.py does not import the client as {CLIENT_IMPORT!r}")
    return head + client + functions

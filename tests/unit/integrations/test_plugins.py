"""The training plug-ins are written as files that stand alone."""

from __future__ import annotations

import ast
import pickle
import sys

import pytest

from cai.integrations.plugins import plugin_source, reward_client


@pytest.mark.parametrize(
    ("name", "libraries"),
    [
        ("areal_reward", set()),
        ("openrlhf_reward", {"torch"}),
        ("verifiers_environment", {"pydantic", "verifiers"}),
        ("verl_reward", {"torch", "verl"}),
    ],
)
def test_a_plugin_imports_nothing_that_the_engine_lacks(name: str, libraries: set[str]) -> None:
    modules = set()
    for node in ast.walk(ast.parse(plugin_source(name))):
        if isinstance(node, ast.ImportFrom):
            modules.add(str(node.module))
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    roots = {module.partition(".")[0] for module in modules}
    assert "urllib" in roots, "the client is missing"
    assert roots - sys.stdlib_module_names == libraries


def test_only_plugins_have_the_client() -> None:
    with pytest.raises(ValueError, match="does not import from"):
        plugin_source("reward_client")


def test_what_the_functions_use_can_be_sent_to_other_processes() -> None:
    """verl's `remote` manager pickles the function with its globals; a lock could not go along."""
    reward_client.rewards([{}], ["a"], reward_client.Server("http://127.0.0.1:9", "x", 0.1))
    for value in (reward_client.FAILURES, reward_client._OPENER, reward_client.SERVER):
        assert type(pickle.loads(pickle.dumps(value))) is type(value)  # noqa: S301  # our own

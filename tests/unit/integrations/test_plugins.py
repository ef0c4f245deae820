"""The two training plug-ins hold one client: each is a file that stands alone."""

from __future__ import annotations

from importlib.resources import files

MARKER = "# ---- the client: "


def client_of(plugin: str) -> str:
    source = files("cai.integrations.plugins").joinpath(plugin).read_text(encoding="utf-8")
    _, marker, client = source.partition(MARKER)
    assert marker, f"{plugin} does not say where its client begins"
    return client


def test_the_client_is_the_same_in_both() -> None:
    client = client_of("openrlhf_reward.py")
    assert "def _post(" in client
    assert client == client_of("verl_reward.py")

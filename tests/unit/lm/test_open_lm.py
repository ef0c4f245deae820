"""Model specs: what opens, and the errors of what does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cai.errors import BackendError, UsageError
from cai.lm import open_lm
from cai.modeling.loading import fingerprint
from cai.modeling.model_files import resolve_model_path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smolm2", "unknown form (did you mean 'smollm2'?); use smollm2, local:"),
        ("locl:here", "unknown form"),
        ("local:", "unknown form (did you mean 'local:'?)"),
        ("", "unknown form; use smollm2, local:"),
        ("fake:nobody", "no such fake; known: brief, echo, polite"),
        ("http://[::1/v1#m", "not an address: ValueError: Invalid IPv6 URL"),
        ("local:./no/such/folder", "no such model folder"),
        ("local:/no/such", "no such model folder"),
        ("local:nofolder", "no such model folder"),
    ],
)
def test_what_cannot_be_opened(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_lm(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_model_folders(tiny_model: Path, tmp_path: Path) -> None:
    """Empty, without a chat template, with truncated weights: one line that names the folder."""
    with pytest.raises(UsageError, match=r"without config\.json is not a model"):
        open_lm(f"local:{tmp_path}")
    for name, broken_file in (("mute", "chat_template.jinja"), ("torn", "model.safetensors")):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        if name == "mute":
            (folder / broken_file).unlink()
        else:
            (folder / broken_file).write_bytes((folder / broken_file).read_bytes()[:500])
        with pytest.raises(BackendError, match=f"{name}: ") as caught:
            open_lm(f"local:{folder}")
        assert "\n" not in str(caught.value)


def test_open_local(tiny_model: Path) -> None:
    opened = open_lm(f"local:{tiny_model}")
    assert opened.fingerprint == fingerprint(str(tiny_model))
    assert resolve_model_path(str(tiny_model)) == str(tiny_model)
    assert resolve_model_path("owner/name") == "owner/name"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://127.0.0.1:1/v1", "write it as http://HOST:PORT/v1#MODEL"),
        ("https://me:secret@host/v1#m", "keys don't belong into the address"),
        ("http://#m", "write it as"),
    ],
)
def test_malformed_addresses(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_lm(spec)

"""Fingerprints of model folders, and models that are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cai.errors import BackendError
from cai.modeling.loading import fingerprint, reject_sliding_windows


def test_fingerprints(tiny_model: Path, tmp_path: Path) -> None:
    """A copy has the same fingerprint; one more byte in weights, template or tokenizer another."""
    original = fingerprint(str(tiny_model))
    fingerprints = {original}
    for name in ("model.safetensors", "chat_template.jinja", "tokenizer.json"):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        assert fingerprint(str(folder)) == original
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        fingerprints.add(fingerprint(str(folder)))
    assert len(fingerprints) == 4


def test_sliding_windows_are_refused() -> None:
    reject_sliding_windows(SimpleNamespace(layer_types=["full_attention"]), "folder")
    reject_sliding_windows(SimpleNamespace(), "folder")
    layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(BackendError, match=r"folder: sliding-window attention"):
        reject_sliding_windows(SimpleNamespace(layer_types=layer_types), "folder")

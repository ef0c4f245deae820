"""Fingerprints of model folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from cai.modeling.loading import fingerprint


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

"""Which number format a processor gets: by measuring, once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cai.modeling import precision


@pytest.mark.parametrize(
    ("capability", "bfloat16_seconds", "faster", "measurements"),
    [
        ("avx2", 0.1, False, 0),
        ("avx512_bf16", 1.3, False, 2),
        ("avx512_bf16", 0.9, False, 2),
        ("amx_bf16", 0.5, True, 2),
    ],
    ids=["no instructions", "slower", "hardly faster", "faster"],
)
def test_bfloat16_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capability: str,
    bfloat16_seconds: float,
    faster: bool,
    measurements: int,
) -> None:
    """float32 takes 1 second. The answer is measured once, and the same in the next process."""
    measured = []

    def seconds(dtype: torch.dtype) -> float:
        measured.append(dtype)
        return 1.0 if dtype == torch.float32 else bfloat16_seconds

    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    monkeypatch.setattr(precision, "product_seconds", seconds)
    assert [precision._bfloat16_is_faster() for _ in range(2)] == [faster, faster]
    assert len(measured) == measurements


def test_a_torn_or_unwritable_cache_costs_a_measurement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    monkeypatch.setenv("CAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: 1.0)
    assert precision._bfloat16_is_faster() is False


def test_a_product_takes_some_time() -> None:
    assert 0 < precision.product_seconds(torch.float32) < 60

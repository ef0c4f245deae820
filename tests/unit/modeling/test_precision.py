"""Which number format a processor gets: by measuring, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cai.errors import UsageError
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


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The device, or the error, with some GPUs and settings."""

    def choose(gpus: int, configured: str | None = None, rank: str | None = None) -> str:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        for name, value in ((precision.DEVICE_VARIABLE, configured), ("LOCAL_RANK", rank)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        try:
            return str(precision.device.__wrapped__())
        except UsageError as error:
            return str(error)

    return choose


def test_each_process_has_a_gpu_of_its_own(chosen: Callable[..., str]) -> None:
    assert chosen(0) == chosen(0, rank="1") == chosen(2, "cpu") == "cpu"
    assert chosen(2) == chosen(2, "cuda") == "cuda:0"
    assert chosen(2, rank="1") == chosen(2, "cuda", rank="1") == chosen(2, "cuda:1") == "cuda:1"


@pytest.mark.parametrize(
    ("gpus", "configured", "rank", "start"),
    [
        (1, None, "1", "LOCAL_RANK=1: torch sees 1 GPUs on this machine"),
        (1, "cuda", "1", "LOCAL_RANK=1: torch sees 1 GPUs"),
        (1, "cuda:3", None, "CAI_DEVICE=cuda:3: torch sees 1 GPUs"),
        (0, "cuda", None, "CAI_DEVICE=cuda: torch sees no GPU on this machine"),
        (0, "cuda:0", None, "CAI_DEVICE=cuda:0: torch sees 0 GPUs"),
        (0, "graphics", None, "CAI_DEVICE=graphics: "),
    ],
)
def test_a_gpu_that_is_not_there_is_named(
    chosen: Callable[..., str], gpus: int, configured: str | None, rank: str | None, start: str
) -> None:
    assert chosen(gpus, configured, rank).startswith(start)


def test_a_product_takes_some_time() -> None:
    assert 0 < precision.product_seconds(torch.float32) < 60

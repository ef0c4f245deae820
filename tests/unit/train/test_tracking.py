"""Metrics sent to trackers: values, missing packages, failures."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.errors import UsageError
from cai.train.tracking import plottable_metrics, stop_after_failure, tracker


def test_unknown_metrics_are_not_plotted() -> None:
    assert plottable_metrics({"update": 3, "kl": 1, "explained_variance": None, "reward": 0.5}) == {
        "kl": 1.0,
        "reward": 0.5,
    }


def test_metrics_go_to_the_named_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def flush(self) -> None:
            calls.append("flushed")

    monkeypatch.setattr("cai.train.tracking.find_spec", lambda name: name)
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    tracker("tensorboard", tmp_path, "mine")(4, {"kl": 0.5, "update": 4})
    assert calls == [(str(tmp_path), 4), ("ppo/kl", 0.5, 4), "flushed"]
    calls.clear()
    fake = SimpleNamespace(
        init=lambda **settings: calls.append(settings),
        log=lambda row, step: calls.append((row, step)),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    tracker("trackio", tmp_path, "mine")(4, {"kl": 0.5})
    assert calls == [{"project": "cai", "name": "mine", "resume": "allow"}, ({"kl": 0.5}, 4)]
    tracker(None, tmp_path, "mine")(4, {"kl": 0.5})


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_named(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cai.train.tracking.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=f"{name} is not installed: pip install {name}"):
        tracker(name, tmp_path, "mine")


def test_a_tracker_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    steps: list[int] = []

    def fail(step: int, metrics: Any) -> None:
        steps.append(step)
        raise ConnectionRefusedError("nobody there")

    track = stop_after_failure("trackio", fail)
    for step in range(3):
        track(step, {})
    assert steps == [0]
    assert (
        capsys.readouterr().err
        == "track: trackio failed at update 0 and is left out from here on: nobody there\n"
    )

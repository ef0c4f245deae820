"""Benchmarks follow the package's names, though the suite does not run them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cai.train.ppo.environment import Environment
from cai.train.ppo.learner import Learner
from cai.train.ppo.trainer import PPOTrainer

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(path, monkeypatch).__doc__


def test_the_gpu_script_runs_dry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row of the smallest size, in tiny shapes: what a card would be asked for runs."""
    (path,) = (path for path in BENCHMARKS if path.stem == "gpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--sizes", "0.1B"])
    load(path, monkeypatch).main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("error") for row in rows] == [None] * 5
    assert [row["row"] for row in rows] == ["correct", "sample", "label", "ppo lora", "ppo full"]
    assert {row["card"] for row in rows} == {"cpu, dry run"}
    assert rows[0]["float32_equal_rows"] == rows[0]["rows"] == 4
    assert rows[0]["float32_largest_nats"] < 1e-4
    assert all(row["peak_rss_gib"] > 0 for row in rows)


def test_ppo_speed_times_methods_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = (path for path in BENCHMARKS if path.stem == "ppo_speed")
    phases = load(path, monkeypatch).PHASE_OF
    owners = {"": PPOTrainer, "environment.": Environment, "learner.": Learner}
    methods = {prefix + name for prefix, owner in owners.items() for name in vars(owner)}
    assert phases.keys() - methods == set()

"""Benchmarks follow the package's names, though the suite does not run them."""

from __future__ import annotations

import importlib.util
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


def test_ppo_speed_times_methods_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = (path for path in BENCHMARKS if path.stem == "ppo_speed")
    phases = load(path, monkeypatch).PHASE_OF
    owners = {"": PPOTrainer, "environment.": Environment, "learner.": Learner}
    methods = {prefix + name for prefix, owner in owners.items() for name in vars(owner)}
    assert phases.keys() - methods == set()

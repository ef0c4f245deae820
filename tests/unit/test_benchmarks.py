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
    assert [row["error"] for row in rows if "error" in row] == []
    sampled = ["sample", "generate"]
    assert [row["row"] for row in rows] == [
        "correct", *sampled, *sampled, "label", "sft lora", "sft full", "preference",
        "ppo lora", "ppo full",
    ]  # fmt: skip
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


def test_every_benchmark_is_run_by_run_all(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = (path for path in BENCHMARKS if path.stem == "run_all")
    module = load(path, monkeypatch)
    names = [benchmark.name for benchmark in module.BENCHMARKS]
    assert sorted([*names, *module.NOT_RUN]) == [path.stem for path in BENCHMARKS]


def test_the_page_of_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A script that works, one that fails and one that cannot run; then one of them again."""
    (path,) = (path for path in BENCHMARKS if path.stem == "run_all")
    module = load(path, monkeypatch)
    (tmp_path / "good.py").write_text("print('1.5 times\\n```')")
    (tmp_path / "bad.py").write_text("raise SystemExit('no server')")
    scripts = [("good", None), ("bad", None), ("needy", "data")]
    benchmarks = tuple(module.Benchmark(name, needs=needs) for name, needs in scripts)
    monkeypatch.setattr(module, "BENCHMARKS", benchmarks)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.delenv("CAI_EVAL_DATA", raising=False)
    output = tmp_path / "RESULTS.md"
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--output", str(output)])
    module.main()
    text = output.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## good", "## bad", "## needy"
    ]  # fmt: skip
    assert "1.5 times\n'''\n```\n" in text
    assert "exit code 1" in text
    assert "no server" in text
    assert "Not run: `CAI_EVAL_DATA` names no folder" in text
    (tmp_path / "good.py").write_text("print('2.5 times')")
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--only", "good", "--output", str(output)])
    module.main()
    again = output.read_text(encoding="utf-8")
    assert "1.5 times" not in again
    assert again.index("2.5 times") < again.index("no server")


def test_written_replies_are_drawn_by_the_seed_and_fill_every_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three kinds of full refusals, one of partial ones; answers twice, short ones 0.2 + 1 + 1."""
    (path,) = (path for path in BENCHMARKS if path.stem == "written_replies")
    module = load(path, monkeypatch)
    replies = module.written_replies(each=10)
    assert replies == module.written_replies(each=10)
    labels = [reply.label for reply in replies]
    counts = {label: labels.count(label) for label in set(labels)}
    assert counts == {"full_refusal": 30, "partial_refusal": 10, "full_compliance": 42}
    assert not [reply for reply in replies if "{" in reply.response or not reply.response.strip()]

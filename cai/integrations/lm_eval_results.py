"""Results of lm-evaluation-harness: `results_*.json`, and `samples_*.jsonl` beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cai.errors import StoreError, blame
from cai.json_input import open_input
from cai.statistics.benchmarks import BenchmarkResult, is_mean_of

RESULTS = "results_*.json"
NO_FILTER = "none"
NOT_METRICS = ("alias", "name", "sample_len", "sample_count")
SHARED_SETTINGS = ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")
Samples = dict[tuple[str, str], float | None]


@dataclass(frozen=True)
class _File:
    path: Path
    data: Mapping[str, Any]
    subject: str

    def task_part(self, key: str, task: str) -> Any:
        part = self.data.get(key)
        return part.get(task) if isinstance(part, Mapping) else None

    def samples_file(self, task: str) -> Path:
        date = self.path.stem.removeprefix("results_")
        return self.path.with_name(f"samples_{task}_{date}.jsonl")


def model_name(path: Path) -> str | None:
    """The model that a file of results names: a folder or a hub id.

    Raises:
        StoreError: the file is none of lm-evaluation-harness.
    """
    name = _load(path).get("model_name")
    return name if isinstance(name, str) else None


def read_lm_eval(path: Path, subject: str) -> list[BenchmarkResult]:
    """Every metric of one file of results.

    Where the samples of a task lie beside the file and their mean is the reported value, the
    result has them.

    Raises:
        StoreError: the file, or that of the samples, can't be read.
    """
    file = _File(path, _load(path), subject)
    return [
        result
        for task, values in file.data["results"].items()
        if isinstance(values, Mapping)
        for result in _task_results(file, task, values)
    ]


def _load(path: Path) -> Mapping[str, Any]:
    with open_input(path) as source, blame(StoreError, f"{path}: not JSON"):
        data = json.loads(source.read())
    if not isinstance(data, Mapping) or not isinstance(data.get("results"), Mapping):
        raise StoreError(f"{path}: no results of lm-evaluation-harness: `results` is missing")
    return data


def _task_results(file: _File, task: str, values: Mapping[str, Any]) -> Iterator[BenchmarkResult]:
    samples: dict[tuple[str, str], Samples] | None = None
    for key, value in values.items():
        name, _, kept = key.partition(",")
        if key in NOT_METRICS or name.endswith("_stderr") or "," not in key:
            continue
        if samples is None:
            samples = _samples_of(file, task)
        mean = _number(value)
        scored = samples.get((name, kept))
        reason = None if mean is not None else f"{file.path.name} has no number for {task} {key}"
        if mean is not None and scored is None:
            reason = f"no samples of {task} beside {file.path.name} (--log_samples writes them)"
        elif scored is not None and not is_mean_of(scored, mean):
            scored, reason = None, reason or f"{name} is not the mean of its samples"
        better = file.task_part("higher_is_better", task)
        yield BenchmarkResult(
            metric=f"lm_eval.{task}.{name}" + ("" if kept == NO_FILTER else f".{kept}"),
            subject=file.subject,
            mean=mean,
            stderr=_number(values.get(f"{name}_stderr,{kept}")),
            n=_count(file, task, values),
            samples=scored,
            higher_is_better=better.get(name) if isinstance(better, Mapping) else None,
            settings=_settings(file, task),
            reason=reason,
        )


def _number(value: Any) -> float | None:
    """`N/A` stands for an unknown error, and NaN for an unknown mean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def _settings(file: _File, task: str) -> dict[str, str]:
    settings = {
        "task version": file.task_part("versions", task),
        "few-shot examples": file.task_part("n-shot", task),
        **{name: file.data.get(name) for name in SHARED_SETTINGS},
    }
    return {name: str(value) for name, value in settings.items() if value not in (None, "", False)}


def _leaves(file: _File, task: str) -> list[str]:
    """The tasks in a group, or the task itself."""
    subtasks = file.task_part("group_subtasks", task)
    if not isinstance(subtasks, list) or not subtasks:
        return [task]
    return [leaf for name in subtasks if name != task for leaf in _leaves(file, name)]


def _count(file: _File, task: str, values: Mapping[str, Any]) -> int:
    counts = [file.task_part("n-samples", leaf) for leaf in _leaves(file, task)]
    if all(isinstance(count, Mapping) and "effective" in count for count in counts):
        return sum(int(count["effective"]) for count in counts)
    length = values.get("sample_len")
    if isinstance(length, int):
        return length
    raise StoreError(
        f"{file.path}: no number of samples for {task}: written by a version before 0.4.3;"
        " run it with a later one"
    )


def _samples_of(file: _File, task: str) -> dict[tuple[str, str], Samples]:
    """(metric, filter) -> the samples' scores; of a group, those of all its tasks.

    A metric that a sample lacks, or gives as something else than a number, is left out.
    """
    scores: dict[tuple[str, str], Samples] = {}
    leaves = _leaves(file, task)
    for leaf in leaves:
        path = file.samples_file(leaf)
        if not path.exists():
            return {}
        for line, row in _sample_rows(path):
            if not isinstance(row.get("doc_id"), int | str):
                raise StoreError(f"{path}:{line}: a sample without `doc_id`")
            # the hash: the same number of another data set is another question
            sample = f"{leaf}/{row['doc_id']}/{row.get('doc_hash', '')}"
            kept = str(row.get("filter", NO_FILTER))
            for name in row.get("metrics") or _numeric_keys(row):
                key = sample, "0"
                scores.setdefault((str(name), kept), {})[key] = _number(row.get(str(name)))
    return scores


def _sample_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, sample); unlike other JSON here a score may be NaN, which is then unknown."""
    with open_input(path) as file:
        for line, raw in enumerate(file, 1):
            with blame(StoreError, f"{path}:{line}: not a sample of lm-evaluation-harness"):
                row = json.loads(raw)
            yield line, row if isinstance(row, dict) else {}


def _numeric_keys(row: Mapping[str, Any]) -> list[str]:
    """Names of metrics in a sample of a version that does not list them."""
    return [
        name
        for name, value in row.items()
        if _number(value) is not None and not re.search(r"_(id|hash)$", name)
    ]

"""Results of other tools in files and folders: which is of which subject, and which is newest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cai.artifacts import POLICY, SFT, SUBJECTS
from cai.errors import StoreError
from cai.integrations.inspect_logs import LOGS, inspect_results, open_log
from cai.integrations.lm_eval_results import RESULTS, model_name, read_lm_eval
from cai.statistics.benchmarks import BenchmarkResult

MODEL_FOLDERS = {SFT: "sft", POLICY: "policy"}


@dataclass
class CapabilityResults:
    """What was read."""

    results: list[BenchmarkResult] = field(default_factory=list)
    """One for each metric and subject: of several runs of a task the newest."""
    notes: list[str] = field(default_factory=list)
    """A line on each file, or part of one, that is left out."""


def read_capability(paths: Sequence[Path]) -> CapabilityResults:
    """The results in files, and in folders with the folders below them.

    The subject of a result is the nearest folder named `base`, `sft` or `policy`; else it follows
    from the model's folder: `20-sft` is sft. Any other model is a subject of its own name.

    Raises:
        StoreError: a file can't be read, or there is none.
        UsageError: there is a log of Inspect, and inspect_ai is not installed.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))
    read = CapabilityResults()
    newest: dict[tuple[str, str], tuple[str, BenchmarkResult, Path]] = {}
    for file in files:
        for date, result in _results(file, read.notes.append):
            key = result.metric, result.subject
            older = newest.get(key)
            if older is not None and older[0] >= date:
                continue
            newest[key] = date, result, file
    read.results = [result for _, result, _ in newest.values()]
    used = {file for _, _, file in newest.values()}
    noted = " ".join(read.notes)
    read.notes += [
        f"{file}: left out: there is a newer result of everything in it"
        for file in files
        if file not in used and str(file) not in noted
    ]
    return read


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise StoreError(f"{path}: no such file or folder")
    logs = [file for file in path.rglob("*.json") if _is_inspect_json(file)]
    files = sorted([*path.rglob(RESULTS), *path.rglob(LOGS), *logs])
    if not files:
        raise StoreError(
            f"{path}: no {RESULTS} of lm-evaluation-harness and no log of Inspect in it"
        )
    return files


def _is_inspect_json(file: Path) -> bool:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"eval", "status"} <= data.keys()


def _results(file: Path, note: Callable[[str], None]) -> Iterator[tuple[str, BenchmarkResult]]:
    """(date, result) of everything in one file; dates of one tool sort as text."""
    if file.suffix == ".eval" or _is_inspect_json(file):
        opened = open_log(file)
        if opened.problem is not None:
            note(opened.problem)
            return
        subject = _subject(file, opened.model)
        for result in inspect_results(opened, subject):
            yield str(opened.log.eval.created), result
    else:
        subject = _subject(file, model_name(file))
        for result in read_lm_eval(file, subject):
            yield file.stem, result


def _subject(file: Path, model: str | None) -> str:
    for folder in file.resolve().parents:
        if folder.name in SUBJECTS:
            return folder.name
    name = Path(model or file.parent.name).name
    return MODEL_FOLDERS.get(name, name)

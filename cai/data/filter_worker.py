"""A process that judges blocks of rows for another one: `python -m cai.data.filter_worker FOLDER`.

The folder holds the settings, and a file for each block. A line of standard input has a block's
number; the line that answers it is empty, or says what failed. It ends with its input: the end of
the other process, whatever the reason, is its end too.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cai.data.evaluation_overlap import EvaluationRuns
from cai.data.filters import HygieneConfig, PromptFilters
from cai.data.judged_rows import judge_rows, save_outcomes
from cai.records import Prompt, TrainingChat, message_dicts

ROW_TYPES: dict[str, type[Prompt] | type[TrainingChat]] = {
    kind.__name__: kind for kind in (Prompt, TrainingChat)
}
NOT_COUNTED = "tokens are counted by the process that reads the rows"


def save_settings(folder: Path, rules: PromptFilters) -> None:
    """Write what `main` needs besides blocks."""
    (folder / "settings").write_text(rules.config.model_dump_json(), encoding="utf-8")
    rules.evaluation.save(folder)


def save_block(
    folder: Path, number: int, rows: Sequence[Prompt | TrainingChat], lengths: Sequence[int | None]
) -> None:
    """Write a block of rows of one type, with the parts of them that filters read."""
    parts = [(row.user, message_dicts(row.chat)) for row in rows]
    block = {"type": type(rows[0]).__name__, "lengths": lengths, "rows": parts}
    _block_file(folder, number).write_text(json.dumps(block), encoding="utf-8")


def outcomes_file(folder: Path, number: int) -> Path:
    return folder / f"outcomes-{number}"


def main() -> None:
    folder = Path(sys.argv[1])
    config = HygieneConfig.model_validate_json((folder / "settings").read_text(encoding="utf-8"))
    rules = PromptFilters(config, _not_counted)
    rules.evaluation = EvaluationRuns.load(folder, config.ngram)
    gc.disable()  # full collections, which take longer than what rows leave over is worth
    for line in sys.stdin:
        answer = ""
        try:
            _judge_block(folder, int(line), rules)
        except Exception as error:  # named by the process that has the rows
            answer = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(ascii(answer) if answer else "", flush=True)
        gc.collect(1)


def _judge_block(folder: Path, number: int, rules: PromptFilters) -> None:
    path = _block_file(folder, number)
    block: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    kind = ROW_TYPES[block["type"]]
    rows: list[Any] = [
        kind.model_validate({"user": user, "chat": chat}) for user, chat in block["rows"]
    ]
    save_outcomes(outcomes_file(folder, number), judge_rows(rows, block["lengths"], rules))


def _block_file(folder: Path, number: int) -> Path:
    return folder / f"block-{number}"


def _not_counted(text: str) -> int:
    raise NotImplementedError(NOT_COUNTED)


if __name__ == "__main__":
    main()

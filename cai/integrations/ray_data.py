"""Waves of a stage's requests through Ray Data.

A pass over the stage writes the requests that it needs next, a wave answers them, and so on until
the stage is finished. Answers stay in the folder of the waves until then: what has an answer is not
requested again, also after a wave that was cut. What a wave does is in `ray_processors`, and its
files are in `ray_tables`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from cai.errors import JobError, blame
from cai.integrations.ray_processors import answer_wave
from cai.integrations.ray_tables import RequestTables, read_answers
from cai.lm.batch import Batch
from cai.locks import locked


def answer_in_waves(
    stage: str,
    folder: Path,
    config: Any,
    run_pass: Callable[[Batch], bool],
    notify: Callable[[str], None] = lambda line: None,
) -> None:
    """Passes over a stage and waves of its open requests, until it is finished.

    Args:
        folder: of the waves; on storage that all machines of a cluster see. It is removed at the
            end. After an interruption, the same call goes on from what lies there.
        config: of a processor of `ray.data.llm`, such as `http_processor` gives.
        run_pass: one pass, as `cai.pipeline.batches.run_batch`: whether the stage is finished.
        notify: called with a line on each wave.

    Raises:
        JobError: a wave brought nothing new, or Ray failed.
    """
    folder = folder.absolute()
    open_before: set[str] = set()
    with locked(folder):
        while True:
            answers = read_answers(folder)
            requests = RequestTables(folder / "requests")
            batch = Batch(stage, answers, requests)
            finished = run_pass(batch)
            requests.close()
            if finished:
                break
            if batch.open_ids == open_before:
                raise JobError(_open_line(stage, open_before, answers.errors))
            notify(f"{stage}: {len(batch.open_ids)} requests through Ray")
            wave = folder / "answers" / f"{_number_of_waves(folder):06}"
            with blame(JobError, f"{stage}: Ray failed; what is answered is kept"):
                answer_wave(requests.paths, wave, config)
            open_before = batch.open_ids
        shutil.rmtree(folder, ignore_errors=True)


def _number_of_waves(folder: Path) -> int:
    return len(list((folder / "answers").glob("*")))


def _open_line(stage: str, names: Collection[str], errors: Mapping[str, str]) -> str:
    reasons = Counter(errors.get(name, "no usable answer") for name in names)
    listed = "; ".join(f"{number} {reason}" for reason, number in reasons.most_common(3))
    return f"{stage}: {len(names)} requests have no answer: {listed}; run again to ask again"

"""A run's prompts, read, filtered, and split by what they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from cai.data.filters import needs_token_counts
from cai.data.split import read_prompts, split
from cai.pipeline.config import ResolvedRun
from cai.records import Prompt

SPLIT_SEED = 0
"""Of the split, whatever the run's seed."""


class RunPrompts(NamedTuple):
    """A run's prompts by what they are for."""

    train: list[Prompt]
    evaluated: list[Prompt]
    validation: list[Prompt]
    counts: Counter[str]
    """What hygiene counted."""


def read_run_prompts(resolved: ResolvedRun) -> RunPrompts:
    """Read and split a run's prompts."""
    run = resolved.run
    count_tokens: Callable[[str], int] = len
    if needs_token_counts(run.hygiene):
        from cai.modeling.token_counts import token_counter

        count_tokens = token_counter(run.model)
    prompts, counts = read_prompts(resolved.prompts, run.hygiene, resolved.against, count_tokens)
    train, evaluated = split(prompts, run.held_out, SPLIT_SEED, run.split_by)
    left = 1 - run.held_out
    if run.dev:
        train, dev = split(train, run.dev / left, SPLIT_SEED, run.split_by)
        evaluated, left = (dev if run.evaluate_on == "dev" else evaluated), left - run.dev
    validation: list[Prompt] = []
    if run.validation:
        train, validation = split(train, run.validation / left, SPLIT_SEED, run.split_by)
    return RunPrompts(train, evaluated, validation, counts)

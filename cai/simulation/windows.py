"""A model in the process of `cai`: rows start in windows, and their calls run in batches.

The rows of a window wait for each other. In each wave the calls that begin alike form batches; a
batch reads its prompts, padded to the longest of a pass, and then generates until its longest reply
ends. Rows that have ended leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean

from cai.modeling.batch_limits import CPU_LIMITS
from cai.modeling.batching import chunk_by_tokens
from cai.modeling.decoding import PREFILL_TOKENS
from cai.simulation.engine import step_seconds
from cai.simulation.machines import Engine
from cai.simulation.workload import Call, Row, Workload

SIMULATED_WINDOWS = 8
"""Full windows that are simulated; further ones take their mean."""


def windows_time(engine: Engine, work: Workload, rows: int, seed: int) -> tuple[float, float]:
    """(seconds, computed prompt tokens) of one device for `rows` rows."""
    width = int(engine.max_rows.value)
    full, rest = divmod(rows, width)
    simulated = min(full, SIMULATED_WINDOWS)
    drawn = work.draws(simulated * width + rest, seed)
    kept = set[int]()
    windows = [
        _window(engine, drawn[start : start + width], kept)
        for start in range(0, simulated * width, width)
    ]
    seconds, computed = 0.0, 0.0
    if windows:
        seconds, computed = (sum(values) for values in zip(*windows, strict=True))
        # the first window computes the prefixes
        later = windows[1:] or windows
        seconds += (full - simulated) * fmean(window[0] for window in later)
        computed += (full - simulated) * fmean(window[1] for window in later)
    if rest:
        last = _window(engine, drawn[simulated * width :], kept)
        seconds, computed = seconds + last[0], computed + last[1]
    return seconds, computed


def _window(engine: Engine, rows: Sequence[Row], kept: set[int]) -> tuple[float, float]:
    """(seconds, computed prompt tokens). `kept`: prefixes that are computed already."""
    seconds = computed = 0.0
    waves = sorted({call.wave for row in rows for call in row})
    for wave in waves:
        calls = [call for row in rows for call in row if call.wave == wave]
        for batch in batches(calls):
            tokens, padding = _prompt_tokens(engine, batch, kept)
            seconds += (tokens + padding) / engine.prefill_tokens_per_second.value
            seconds += _decode_seconds(engine, [call for call in batch if not call.is_choice])
            computed += tokens
    return seconds, computed


def batches(calls: Sequence[Call]) -> list[list[Call]]:
    """Calls of one kind and prefix together, the shortest first, within the limits of a batch."""

    def kind(call: Call) -> tuple[bool, int]:
        return call.is_choice, -1 if call.prefix is None else call.prefix

    result: list[list[Call]] = []
    for _, group in groupby(sorted(calls, key=kind), kind):
        batch: list[Call] = []
        for call in sorted(group, key=lambda call: call.prompt - call.shared):
            tokens = (len(batch) + 1) * (call.prompt - call.shared)
            if batch and (len(batch) == CPU_LIMITS.rows or tokens > CPU_LIMITS.tokens):
                result.append(batch)
                batch = []
            batch.append(call)
        result.append(batch)
    return result


def _prompt_tokens(engine: Engine, batch: Sequence[Call], kept: set[int]) -> tuple[float, float]:
    """(tokens to read, padding of the passes in which they are). `kept`: as for `_window`."""
    prefix = batch[0].prefix
    is_shared = prefix is not None and engine.cache_tokens is not None and len(batch) > 1
    lengths = [round(call.prompt - (call.shared if is_shared else 0.0)) for call in batch]
    rows = [range(length) for length in lengths]  # for their lengths alone
    passes = [lengths[chunk] for chunk in chunk_by_tokens(rows, PREFILL_TOKENS)]
    padded = sum(len(chunk) * max(chunk) for chunk in passes)
    tokens = float(sum(lengths))
    if prefix is not None and is_shared and prefix not in kept:
        kept.add(prefix)
        tokens += batch[0].shared
    return tokens, padded - sum(lengths)


def _decode_seconds(engine: Engine, batch: Sequence[Call]) -> float:
    """A batch without refill: after each end, the rest goes on with fewer rows."""
    seconds, now = 0.0, 0
    lengths = sorted(call.steps for call in batch)
    for index, steps in enumerate(lengths):
        seconds += (steps - now) * step_seconds(engine.decode, len(lengths) - index)
        now = steps
    return seconds

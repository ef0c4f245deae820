"""Calls of a local model in batches: equal prefixes together, and like lengths."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from cai.modeling.batch_limits import CPU_LIMITS, BatchLimits
from cai.modeling.batching import common_prefix_length

MIN_SAVED_TOKENS = 512
"""Prompt tokens that sharing must save to make up for decoding two batches instead of one."""


def make_batches(calls: Sequence[Any], limits: BatchLimits = CPU_LIMITS) -> list[list[Any]]:
    """Calls with a common prefix together, shortest first: similar lengths need little padding.

    A batch holds at most `limits.rows` rows, and `limits.tokens` tokens beyond the prefix.
    """
    batches: list[list[Any]] = []
    for group in _group_by_prefix(calls):
        shared = common_prefix_length([call.ids for call in group])
        batch: list[Any] = []
        for call in sorted(group, key=lambda call: len(call.ids)):
            num_tokens = (len(batch) + 1) * (len(call.ids) - shared)
            if batch and (len(batch) == limits.rows or num_tokens > limits.tokens):
                batches.append(batch)
                batch = []
            batch.append(call)
        batches.append(batch)
    return batches


def _group_by_prefix(calls: Sequence[Any]) -> list[list[Any]]:
    """Calls grouped by how their prompts begin: two sets of few-shot examples are two prefixes.

    In lexical order neighbours share the most. A new group begins where neighbours share less than
    half of the usual length: the median over different neighbours. A group that would save less
    than it costs joins the group before it.
    """
    if not calls:
        return []
    ordered = sorted(calls, key=lambda call: call.ids)
    neighbours = list(itertools.pairwise(ordered))
    shared = [common_prefix_length([a.ids, b.ids]) for a, b in neighbours]
    differing = [
        length for length, (a, b) in zip(shared, neighbours, strict=True) if a.ids != b.ids
    ]
    usual = statistics.median(differing) if differing else 0
    groups = [ordered[:1]]
    for call, length in zip(ordered[1:], shared, strict=True):
        if length < usual / 2:
            groups.append([])
        groups[-1].append(call)
    merged = [groups[0]]
    for group in groups[1:]:
        if (len(group) - 1) * usual >= MIN_SAVED_TOKENS:
            merged.append(group)
        else:
            merged[-1] += group
    return merged

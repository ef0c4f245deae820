"""What rows ask of a model: calls with their tokens, and the prefixes that calls share.

Built from some rows that were tried. A forecast of many rows repeats these.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from scipy.stats import t as student

from cai.seeds import rng

MIN_SHARED_TOKENS = 16
"""Shorter prefixes are not counted: engines keep keys and values in blocks of about this size."""


@dataclass(frozen=True)
class TriedCall:
    """A call that was made: its prompt's text and the tokens that it took."""

    text: str
    prompt: float
    generated: int
    wave: int = 0
    """Number of answers of its row that it had to wait for, one after another."""
    is_choice: bool = False
    """Options scored: nothing is sampled."""


@dataclass(frozen=True)
class Call:
    """Tokens of a call. `prefix`: which prefix its prompt begins with; None: one of its own."""

    prompt: float
    generated: int
    wave: int = 0
    is_choice: bool = False
    prefix: int | None = None
    shared: float = 0.0
    """Prompt tokens of that prefix."""
    repeated: float = 0.0
    """Prompt tokens after it that an earlier call of the same row had too."""

    @property
    def steps(self) -> int:
        """Tokens that are generated one after another."""
        return 1 if self.is_choice else max(1, self.generated)


Row = tuple[Call, ...]


@dataclass(frozen=True)
class Workload:
    """The rows of one stage. `rows`: those that were tried, which stand for all."""

    stage: str
    rows: tuple[Row, ...]
    rows_per_prompt: float = 1.0

    @cached_property
    def calls_per_row(self) -> float:
        return sum(len(row) for row in self.rows) / len(self.rows)

    @cached_property
    def prompt_per_row(self) -> float:
        return sum(call.prompt for row in self.rows for call in row) / len(self.rows)

    @cached_property
    def generated_per_row(self) -> float:
        return sum(call.generated for row in self.rows for call in row) / len(self.rows)

    @cached_property
    def prefixes(self) -> dict[int, float]:
        """Prefix -> its tokens."""
        calls = [call for row in self.rows for call in row]
        return {call.prefix: call.shared for call in calls if call.prefix is not None}

    @cached_property
    def spread(self) -> float | None:
        """Half of the 95 % interval of the mean tokens of a row, by Student's t, as a share of that
        mean; None with one row.
        """
        tokens = [sum(call.prompt + call.generated for call in row) for row in self.rows]
        if len(tokens) < 2:
            return None
        error = statistics.stdev(tokens) / math.sqrt(len(tokens))
        return float(student.ppf(0.975, len(tokens) - 1)) * error / statistics.fmean(tokens)

    def draws(self, count: int, seed: int) -> list[Row]:
        """`count` rows: the tried ones over and over, each time in another order."""
        drawn: list[Row] = []
        turn = 0
        while len(drawn) < count:
            order = list(self.rows)
            rng(seed, "simulated rows", self.stage, turn).shuffle(order)
            drawn += order
            turn += 1
        return drawn[:count]


def workload(
    stage: str, tried: Sequence[Sequence[TriedCall]], rows_per_prompt: float = 1.0
) -> Workload | None:
    """The workload of rows that were tried; None if none of them made a call."""
    rows = [row for row in tried if row]
    if not rows:
        return None
    families = _families(rows)
    return Workload(
        stage,
        tuple(tuple(_calls(row, families)) for row in rows),
        # rows without a call cost nothing
        rows_per_prompt * len(rows) / len(tried),
    )


def _families(rows: Sequence[Sequence[TriedCall]]) -> list[str]:
    """The prefixes of all waves: calls of one wave are made together, and begin alike."""
    calls = [call for row in rows for call in row]
    length = statistics.median(len(call.text) / max(1.0, call.prompt) for call in calls)
    waves: dict[tuple[int, bool], list[tuple[str, int]]] = {}
    for index, row in enumerate(rows):
        for call in row:
            waves.setdefault((call.wave, call.is_choice), []).append((call.text, index))
    prefixes = (prefix_families(wave, MIN_SHARED_TOKENS * length) for wave in waves.values())
    return sorted({prefix for families in prefixes for prefix in families})


def _calls(row: Sequence[TriedCall], families: Sequence[str]) -> Iterator[Call]:
    for call in sorted(row, key=lambda call: call.wave):
        earlier = [other.text for other in row if other.wave < call.wave]
        per_character = call.prompt / max(1, len(call.text))
        family = max(
            (f for f in range(len(families)) if call.text.startswith(families[f])),
            key=lambda f: len(families[f]),
            default=None,
        )
        shared = 0.0 if family is None else len(families[family]) * per_character
        if shared < MIN_SHARED_TOKENS:
            family, shared = None, 0.0
        known = max((_common(call.text, text) for text in earlier), default=0) * per_character
        yield Call(
            prompt=call.prompt,
            generated=call.generated,
            wave=call.wave,
            is_choice=call.is_choice,
            prefix=family,
            shared=shared,
            repeated=max(0.0, known - shared),
        )


def prefix_families(located: Sequence[tuple[str, int]], shortest: float) -> Iterator[str]:
    """What the texts of several rows begin with, each once, from (text, row).

    In lexical order neighbours share the most. A new family begins where neighbours share less than
    half of what is usual: the median over neighbours that share something worth keeping. A family
    of a single row is none: what its calls share is that row's own.
    """
    ordered = sorted(located)
    shared = [_common(a[0], b[0]) for a, b in pairwise(ordered)]
    worth = [length for length in shared if length >= shortest]
    if not worth:
        return
    least = max(shortest, statistics.median(worth) / 2)
    family = ordered[:1]
    for entry, length in zip(ordered[1:], shared, strict=True):
        if length < least:
            yield from _prefix_of(family)
            family = []
        family.append(entry)
    yield from _prefix_of(family)


def _prefix_of(family: Sequence[tuple[str, int]]) -> Iterator[str]:
    if len({row for _, row in family}) > 1:
        yield os.path.commonprefix([text for text, _ in family])  # noqa: RUF071


def _common(first: str, second: str) -> int:
    return len(os.path.commonprefix([first, second]))  # noqa: RUF071

"""One device with continuous batching, as a queue of rows in front of a number of slots.

Time has two clocks. A step gives a token to every row in a slot, and a row holds its slot for as
many steps as it has tokens: that is simulated, first come, first served, so that the ramp at the
beginning and the stragglers at the end are what they are. How long a step takes depends on the rows
in slots, and is read off the machine's description. Reading prompts is arithmetic that shares these
steps: the device takes the longer of both. In the middle, where all slots are taken, further rows
add the same time each, and are not simulated.

More rows, longer texts or fewer slots never make it faster where a step's time is a straight line:
start times of such a queue grow with service times (Kiefer and Wolfowitz, 1955).
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from cai.simulation.machines import DecodePoint, Engine
from cai.simulation.workload import Row, Workload

TURNS = 4
"""Times that the simulated rows fill all slots, at least."""
MIN_SIMULATED_ROWS = 1000
PREFIX_SHARE = 0.5
"""Of the cache, for prefixes that do not fit beside the replies under way."""


@dataclass(frozen=True)
class DeviceTime:
    """What a device takes for its rows, in seconds."""

    decode: float
    """Steps, at the speed that memory and overhead allow."""
    arithmetic: float
    """All tokens, at the speed of full batches."""
    alone: float
    """The longest row by itself: its prompts read and its tokens generated, one after another."""
    computed: float
    """Prompt tokens that no cache had."""

    @property
    def seconds(self) -> float:
        return max(self.decode, self.arithmetic, self.alone)

    @property
    def limit(self) -> str:
        """What decides the seconds."""
        if self.alone > max(self.decode, self.arithmetic):
            return "longest row"
        return "decoding" if self.decode >= self.arithmetic else "arithmetic"


def step_seconds(points: Sequence[DecodePoint], rows: float) -> float:
    """Seconds of one token for each of `rows` rows: on straight lines between the points, and at
    least those of the first.
    """
    if rows <= points[0].rows:
        return points[0].step_seconds
    for low, high in pairwise(points):
        if rows <= high.rows:
            share = (rows - low.rows) / (high.rows - low.rows)
            return low.step_seconds + share * (high.step_seconds - low.step_seconds)
    return points[-1].step_seconds


def num_slots(engine: Engine, work: Workload) -> int:
    """Replies at once: the engine's limit, or as many as fit into the cache beside the prefixes."""
    most = int(engine.max_rows.value)
    if engine.cache_tokens is None:
        return most
    room = engine.cache_tokens.value - _prefix_room(engine, work)
    needs = [call.prompt - call.shared + call.generated for row in work.rows for call in row]
    return max(1, min(most, int(room / max(1.0, fmean(needs)))))


def _prefix_room(engine: Engine, work: Workload) -> float:
    assert engine.cache_tokens is not None  # noqa: S101
    return min(sum(work.prefixes.values()), PREFIX_SHARE * engine.cache_tokens.value)


def device_time(engine: Engine, work: Workload, rows: int, seed: int) -> DeviceTime:
    """Seconds of one device with continuous batching for `rows` rows."""
    slots = num_slots(engine, work)
    simulated = min(rows, simulated_rows(slots, work))
    drawn = work.draws(simulated, seed)
    steps = [lane for row in drawn for lane in lanes(row)]
    decode = queue_seconds(steps, slots, engine.decode)
    computed, usual = computed_tokens(engine, work, drawn)
    generated = float(sum(call.generated for row in drawn for call in row))
    more = rows - simulated
    if more:
        steps_per_row = fmean(sum(lanes(row)) for row in work.rows)
        decode += more * steps_per_row * step_seconds(engine.decode, slots) / slots
        computed += more * usual
        generated += more * work.generated_per_row
    arithmetic = (computed + generated) / engine.prefill_tokens_per_second.value
    alone = max(_alone_seconds(engine, row) for row in drawn)
    return DeviceTime(decode, arithmetic, alone, computed)


def _alone_seconds(engine: Engine, row: Row) -> float:
    """A row by itself on a warm cache; calls of one wave are side by side."""
    has_cache = engine.cache_tokens is not None
    prompts = sum(call.prompt - (call.shared + call.repeated if has_cache else 0.0) for call in row)
    reading = prompts / engine.prefill_tokens_per_second.value
    return reading + max(lanes(row)) * step_seconds(engine.decode, 1)


def simulated_rows(slots: int, work: Workload) -> int:
    """Rows that are simulated one by one: enough to fill all slots several times, and every tried
    row equally often.
    """
    count = max(TURNS * slots, MIN_SIMULATED_ROWS)
    return math.ceil(count / len(work.rows)) * len(work.rows)


def lanes(row: Row) -> list[int]:
    """Steps of the calls of a row that wait for each other, added up: calls of one wave are in
    slots side by side.
    """
    by_lane: dict[int, int] = {}
    in_wave: dict[int, int] = {}
    for call in row:
        lane = in_wave.get(call.wave, 0)
        in_wave[call.wave] = lane + 1
        by_lane[lane] = by_lane.get(lane, 0) + call.steps
    return list(by_lane.values())


def queue_seconds(jobs: Iterable[int], slots: int, points: Sequence[DecodePoint]) -> float:
    """Seconds until all jobs have had their steps, each in one of the slots, in this order."""
    seconds, now = 0.0, 0
    ends: list[int] = []
    prices = [0.0] + [step_seconds(points, rows) for rows in range(1, slots + 1)]
    for steps in jobs:
        if len(ends) == slots:
            end = heapq.heappop(ends)
            seconds += (end - now) * prices[slots]
            now = end
        heapq.heappush(ends, now + steps)
    while ends:
        taken = len(ends)
        end = heapq.heappop(ends)
        seconds += (end - now) * prices[taken]
        now = end
    return seconds


def computed_tokens(engine: Engine, work: Workload, rows: Sequence[Row]) -> tuple[float, float]:
    """(prompt tokens that no cache had, the same of one row once the cache is warm).

    Prefixes are kept least recently used. What a row's earlier call had is still there: the next
    call follows at once.
    """
    if engine.cache_tokens is None:
        total = sum(call.prompt for row in rows for call in row)
        return total, work.prompt_per_row
    room = _prefix_room(engine, work)
    kept: OrderedDict[int, float] = OrderedDict()
    held = total = warm = 0.0
    half = len(rows) // 2
    for index, row in enumerate(rows):
        for call in row:
            tokens = call.prompt - call.repeated
            if call.prefix is not None:
                if call.prefix in kept:
                    kept.move_to_end(call.prefix)
                    tokens -= call.shared
                elif call.shared <= room:
                    kept[call.prefix] = call.shared
                    held += call.shared
                    while held > room:
                        held -= kept.popitem(last=False)[1]
            total += tokens
            warm += tokens if index >= half else 0.0
    return total, warm / (len(rows) - half)

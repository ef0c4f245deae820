"""A batch queue: the requests of a wave in files, a wave after the other.

A file's turnaround is drawn from a log-normal distribution through the two hours that the machine
names, cut at the most. So many files are in flight as the limit on waiting tokens allows. A wave
ends with its slowest file.
"""

from __future__ import annotations

import heapq
import math
from statistics import NormalDist, fmean

from cai.seeds import rng
from cai.simulation.machines import Queue
from cai.simulation.workload import Workload

SLOW_SHARE = 0.9
MAX_SIMULATED_FILES = 20_000
MOST_DRAWS = 500
"""Of the turnarounds of a wave."""


def queue_hours(queue: Queue, work: Workload, rows: int, seed: int) -> float:
    """Hours of all waves."""
    most_waves = max(call.wave for row in work.rows for call in row) + 1
    hours = 0.0
    for wave in range(most_waves):
        calls = [call for row in work.rows for call in row if call.wave == wave]
        requests = math.ceil(rows * len(calls) / len(work.rows))
        tokens = sum(call.prompt for call in calls) / len(calls)
        hours += _wave_hours(queue, requests, tokens, (seed, work.stage, wave))
    return hours


def _wave_hours(queue: Queue, requests: int, tokens: float, address: tuple[int, str, int]) -> float:
    """The mean over several draws of all turnarounds: that of one file says little."""
    size = int(queue.requests_per_file.value)
    files = math.ceil(requests / size)
    in_flight = int(queue.tokens_in_flight.value / (min(size, requests) * max(1.0, tokens)))
    simulated = min(files, MAX_SIMULATED_FILES)
    seed, *where = address
    draw = rng(seed, "turnaround", *where)
    hours = [
        files_hours(
            [turnaround_hours(queue, draw.random()) for _ in range(simulated)], max(1, in_flight)
        )
        for _ in range(max(1, min(MOST_DRAWS, MAX_SIMULATED_FILES // files)))
    ]
    return fmean(hours) * max(1.0, files / simulated)


def turnaround_hours(queue: Queue, quantile: float) -> float:
    """The hours within which this share of files is answered."""
    normal = NormalDist()
    spread = math.log(queue.slow_hours.value / queue.median_hours.value) / normal.inv_cdf(
        SLOW_SHARE
    )
    within = min(max(quantile, 1e-12), 1 - 1e-12)
    hours = queue.median_hours.value * math.exp(spread * normal.inv_cdf(within))
    return min(hours, queue.most_hours.value)


def files_hours(turnarounds: list[float], in_flight: int) -> float:
    """Hours until all files are answered, with so many in flight at once."""
    ends: list[float] = []
    last = 0.0
    for hours in turnarounds:
        start = heapq.heappop(ends) if len(ends) == in_flight else 0.0
        heapq.heappush(ends, start + hours)
        last = max(last, start + hours)
    return last


def queue_cost(queue: Queue, prompt_tokens: float, completion_tokens: float) -> float:
    """In the currency of the queue's prices."""
    price = prompt_tokens * queue.prompt_price.value
    price += completion_tokens * queue.completion_price.value
    return price * queue.discount.value / 1e6

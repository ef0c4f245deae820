"""A batch queue: files, waves and money by hand."""

from __future__ import annotations

import pytest
from simulated_machines import figure, one_call, queue_machine, work

from cai.simulation.forecast import forecast_machine, forecast_stage
from cai.simulation.queue import files_hours, turnaround_hours
from cai.simulation.workload import Call


def test_turnarounds_pass_through_the_two_hours() -> None:
    queue = queue_machine().queue
    assert queue is not None
    assert turnaround_hours(queue, 0.5) == pytest.approx(1)
    assert turnaround_hours(queue, 0.9) == pytest.approx(4)
    assert turnaround_hours(queue, 1.0) == 24


def test_a_wave_ends_with_its_slowest_file() -> None:
    assert files_hours([1, 5, 2], 3) == 5
    # two in flight: the third begins when the first ends
    assert files_hours([1, 5, 2], 2) == 5
    assert files_hours([1, 5, 2], 1) == 8


def test_three_waves_take_longer_than_one() -> None:
    three = work(tuple(Call(100, 10, wave=wave) for wave in range(3)))
    machine = queue_machine()
    hours = [forecast_stage(machine, rows, 10, 0).hours for rows in (one_call(), three)]
    assert hours[0] < hours[1]


def test_a_limit_on_waiting_tokens_makes_files_wait() -> None:
    """A hundred rows are ten files of 1,000 tokens; one at a time takes the sum."""
    free, tight = queue_machine(), queue_machine(tokens_in_flight=figure(1000))
    at_once, in_turn = (forecast_stage(m, one_call(), 100, 0).hours for m in (free, tight))
    assert in_turn > 2 * at_once


def test_money_by_hand() -> None:
    """A million rows of 100 + 10 tokens: (100 * 1 + 10 * 2) / 2 = 60."""
    result = forecast_machine(queue_machine(), [one_call()], 1_000_000, 0)
    assert result.cost == pytest.approx(60)
    assert result.stages[0].cached is None
    assert result.stages[0].limit == "turnaround"

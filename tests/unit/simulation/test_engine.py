"""Times of a device by hand, and what holds for every workload."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_machines import engine_machine, figure, one_call, point, work

from cai.simulation.engine import (
    device_time,
    lanes,
    num_slots,
    queue_seconds,
    simulated_rows,
    step_seconds,
)
from cai.simulation.forecast import forecast_stage
from cai.simulation.machines import Machine, load_machine
from cai.simulation.workload import Call, Workload

TOY = engine_machine()


def seconds(machine: Machine, workload: Workload, prompts: int) -> float:
    return forecast_stage(machine, workload, prompts, 0).hours * 3600


def test_one_request_on_one_device() -> None:
    """100 tokens read at 1,000 a second, then ten steps of 0.1 s: 1.1 s, and so many coins."""
    result = forecast_stage(TOY, one_call(), 1, 0)
    assert result.hours * 3600 == pytest.approx(1.1)
    assert result.cost == pytest.approx(1.1 / 3600)
    assert result.limit == "longest row"


def test_two_waves_in_two_slots() -> None:
    """Four rows of ten tokens in two slots: twice ten steps of 0.11 s. A fifth is alone: ten of
    0.1 s.
    """
    assert seconds(TOY, one_call(), 4) == pytest.approx(2.2)
    assert seconds(TOY, one_call(), 5) == pytest.approx(3.2)


def test_a_straggler_keeps_its_slot() -> None:
    """Jobs of 10, 2, 2 steps in two slots: four steps with both slots taken, six with one."""
    points = TOY.engine.decode if TOY.engine else ()
    assert queue_seconds([10, 2, 2], 2, points) == pytest.approx(4 * 0.11 + 6 * 0.1)


def test_reading_may_take_longer_than_decoding() -> None:
    """Two rows of 9,000 + 10 tokens: 18,020 at 1,000 a second."""
    result = forecast_stage(TOY, one_call(9000), 2, 0)
    assert result.hours * 3600 == pytest.approx(18.02)
    assert result.limit == "arithmetic"


def test_prefix_hits() -> None:
    """Four rows of 1,000 tokens, of which 800 are shared: the first reads all, the others 200.
    Without a cache each reads all.
    """
    shared = work((Call(1000, 1, prefix=0, shared=800),))
    cached = engine_machine(cache_tokens=figure(10_000))
    result = forecast_stage(cached, shared, 4, 0)
    assert result.cached == pytest.approx(2400 / 4000)
    assert result.hours * 3600 == pytest.approx(1.6 + 0.004)
    assert forecast_stage(TOY, shared, 4, 0).cached == 0


def test_a_cache_too_small_for_its_prefixes() -> None:
    """Room for one of two prefixes that alternate: none is there when it is needed, but after rows
    of its own.
    """
    rows = [(Call(1000, 1, prefix=name, shared=800),) for name in (0, 1)]
    small = engine_machine(cache_tokens=figure(2000))
    large = engine_machine(cache_tokens=figure(4000))
    few, most = (forecast_stage(machine, work(*rows), 1000, 0).cached for machine in (small, large))
    assert few is not None
    assert most == pytest.approx(0.8, abs=0.01)
    assert few < 0.5 * most


def test_what_an_earlier_call_of_the_row_had_is_not_read_again() -> None:
    """A reply, then a critique whose prompt has 60 of its 160 tokens from before."""
    row = (Call(100, 1), Call(160, 1, wave=1, repeated=60))
    cached = engine_machine(cache_tokens=figure(10_000))
    assert forecast_stage(cached, work(row), 10, 0).cached == pytest.approx(60 / 260)


def test_replies_that_do_not_fit_the_cache_wait() -> None:
    """Room for 500 tokens and replies of 250: two at once, though 100 may be."""
    engine = engine_machine(max_rows=figure(100), cache_tokens=figure(500)).engine
    assert engine is not None
    assert num_slots(engine, one_call(240, 10)) == 2


def test_steps_between_points_are_on_a_straight_line() -> None:
    machine = engine_machine(decode=[point(2, 0.2), point(4, 0.4)])
    assert machine.engine is not None
    times = [step_seconds(machine.engine.decode, rows) for rows in (1, 2, 3, 4)]
    assert times == pytest.approx([0.2, 0.2, 0.3, 0.4])


def test_calls_of_one_wave_are_side_by_side() -> None:
    """Two orders at once, then one call: two lanes, of 5 + 7 and 6 steps."""
    assert lanes((Call(9, 5), Call(9, 6), Call(9, 7, wave=1))) == [12, 6]


def test_the_middle_is_what_a_simulation_of_every_row_gives() -> None:
    rows = [(Call(10, steps),) for steps in (3, 5, 9)]
    engine = engine_machine(max_rows=figure(8)).engine
    assert engine is not None
    many = work(*rows)
    count = 4 * simulated_rows(8, many)
    jobs = [lane for row in many.draws(count, 0) for lane in lanes(row)]
    exact = queue_seconds(jobs, 8, engine.decode)
    assert device_time(engine, many, count, 0).decode == pytest.approx(exact, rel=1e-3)


def test_published_throughput_of_one_h100() -> None:
    """34,470 tokens a second, three calls of 1,152: 35,906 rows an hour, 62 times 577."""
    revise = work(tuple(Call(1024, 128, wave=wave) for wave in range(3)))
    h100 = load_machine("h100")
    result = forecast_stage(h100, revise, 1_000_000, 0)
    assert result.rows_per_hour == pytest.approx(36_000, rel=0.01)
    assert 60 <= result.rows_per_hour / 577 <= result.rows_per_hour / 433 <= 85


# ---- what always holds ----

LENGTHS = st.lists(
    st.tuples(st.integers(1, 500), st.integers(1, 60)).map(lambda pair: (Call(*pair),)),
    min_size=1,
    max_size=6,
)
COUNTS = st.integers(1, 5000)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, COUNTS, st.integers(1, 20), st.integers(1, 20))
def test_more_devices_are_never_slower(
    rows: list[tuple[Call]], count: int, devices: int, more: int
) -> None:
    few, many = engine_machine(devices), engine_machine(devices + more)
    assert seconds(many, work(*rows), count) <= seconds(few, work(*rows), count) * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, COUNTS, st.integers(0, 200), st.integers(0, 30))
def test_more_tokens_are_never_cheaper(
    rows: list[tuple[Call]], count: int, prompt: int, generated: int
) -> None:
    """Longer prompts and replies: no less time, and no less money."""
    longer = [(Call(call.prompt + prompt, call.generated + generated),) for (call,) in rows]
    short = forecast_stage(TOY, work(*rows), count, 0)
    long = forecast_stage(TOY, work(*longer), count, 0)
    assert long.hours >= short.hours * (1 - 1e-9)
    assert long.cost is not None
    assert short.cost is not None
    assert long.cost >= short.cost * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, COUNTS, st.integers(1, 8))
def test_no_run_beats_the_roofline(rows: list[tuple[Call]], count: int, devices: int) -> None:
    """All tokens at the speed of full batches on all devices, and all steps at the slots' speed."""
    many = work(*rows)
    forecast = forecast_stage(engine_machine(devices), many, count, 0)
    share = -(-count // devices)
    if share <= 100:  # all of them are drawn, and not a mean of them
        calls = [call for row in many.draws(share, 0) for call in row]
        tokens = float(sum(call.prompt + call.generated for call in calls))
        steps = float(sum(call.steps for call in calls))
    else:  # what is drawn differs from the mean that the middle is made of
        tokens = 0.9 * (forecast.prompt_tokens + forecast.generated_tokens) / devices
        steps = 0.9 * forecast.generated_tokens / devices
    assert forecast.hours * 3600 >= tokens / 1000 - 1e-6
    assert forecast.hours * 3600 >= steps * 0.11 / 2 - 1e-6


@settings(max_examples=20, deadline=None)
@given(LENGTHS, COUNTS, st.integers(1, 1000))
def test_more_rows_take_no_less(rows: list[tuple[Call]], count: int, more: int) -> None:
    many = work(*rows)
    assert seconds(TOY, many, count + more) >= seconds(TOY, many, count) * (1 - 1e-9)

"""A model in this process: windows, batches and their times by hand."""

from __future__ import annotations

import pytest
from simulated_machines import engine_machine, figure, one_call, work

from cai.modeling.batch_limits import CPU_LIMITS
from cai.simulation.engine import step_seconds
from cai.simulation.windows import batches, windows_time
from cai.simulation.workload import Call, Workload


def seconds(workload: Workload, rows: int, width: int = 2) -> float:
    engine = engine_machine(batching="windows", max_rows=figure(width)).engine
    assert engine is not None
    return windows_time(engine, workload, rows, 0)[0]


def test_a_window_reads_and_then_generates() -> None:
    """Two rows: 200 tokens at 1,000 a second, then ten steps of 0.11 s; a third row is alone."""
    assert seconds(one_call(), 2) == pytest.approx(0.2 + 1.1)
    assert seconds(one_call(), 3) == pytest.approx(1.3 + 0.1 + 1.0)


def test_rows_that_end_leave_the_batch() -> None:
    """Replies of 2 and 6 tokens: two steps of both, four of one."""
    rows = work((Call(100, 2),), (Call(100, 6),))
    assert seconds(rows, 2) == pytest.approx(0.2 + 2 * 0.11 + 4 * 0.1)


def test_a_wave_waits_for_the_one_before() -> None:
    """Rows of a long and a short reply, and then the reverse: the long ones add up."""
    rows = work(
        (Call(100, 2), Call(100, 6, wave=1)),
        (Call(100, 6), Call(100, 2, wave=1)),
    )
    assert seconds(rows, 2) == pytest.approx(2 * (0.2 + 2 * 0.11 + 4 * 0.1))


def test_a_shared_prefix_is_read_once_and_options_take_no_step() -> None:
    """Four rows in two windows, 1,000 tokens of which 800 are shared: 800 + 4 * 200."""
    rows = work((Call(1000, 1, is_choice=True, prefix=0, shared=800),))
    engine = engine_machine(
        batching="windows", max_rows=figure(2), cache_tokens=figure(2000)
    ).engine
    assert engine is not None
    assert windows_time(engine, rows, 4, 0) == pytest.approx((1.6, 1600))


def test_many_windows_add_up() -> None:
    assert seconds(one_call(), 2000) == pytest.approx(1000 * 1.3)


def test_batches_keep_prefixes_and_kinds_apart() -> None:
    calls = [
        Call(30, 5),
        Call(20, 5),
        Call(500, 1, is_choice=True),
        Call(600, 5, prefix=1, shared=500),
        *[Call(600, 5, prefix=2, shared=500)] * (CPU_LIMITS.rows + 1),
    ]
    sizes = [len(batch) for batch in batches(calls)]
    # 12,000 tokens beyond the prefix are 120 rows of 100
    assert sizes == [2, 1, 120, 9, 1]
    assert [call.prompt for call in batches(calls)[0]] == [20, 30]


def test_prompts_are_padded_to_the_longest_of_a_pass() -> None:
    """Prompts of 50 and 150 tokens: two rows of 150."""
    rows = work((Call(50, 1),), (Call(150, 1),))
    assert seconds(rows, 2) == pytest.approx(0.3 + 0.11)


def test_a_step_of_the_points() -> None:
    engine = engine_machine().engine
    assert engine is not None
    assert step_seconds(engine.decode, 51) == pytest.approx(0.6)

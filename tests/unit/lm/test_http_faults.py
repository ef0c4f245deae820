"""Stages against an endpoint with faults, killed and resumed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest
from endpoint import Behaviour, endpoint, processes
from killed import STAGES, work

from cai.records import Preference
from cai.store import read_rows

LOG_LINE_BYTES = 68
"""64 digits, " ok" and the end of the line."""


def logged_calls(folder: Path) -> int:
    """Calls in the request log of a process that has just been killed."""
    if not (folder / "requests.sqlite").exists():
        return 0
    with sqlite3.connect(folder / "requests.sqlite") as db:
        try:
            return int(db.execute("SELECT COUNT(*) FROM calls").fetchone()[0])
        except sqlite3.OperationalError:  # killed before the table was created
            return 0


# 20 processes, each killed at another moment of 1,000 calls or more
@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_moment_pays_nothing_twice(tmp_path: Path, stage: str) -> None:
    """500 rows; SIGKILL at 20 seeded moments, spread over the calls of the run.

    The file is that of a run that was never killed, byte for byte, and no logged call is made
    again. Only answers in flight at a kill (at most one a connection) may be requested twice.
    """
    connections, count = 8, 500
    http = {"connections": connections}
    with endpoint(tmp_path / "a") as server:
        (tmp_path / "unkilled").mkdir()
        work(stage, server.spec, tmp_path / "unkilled", count, http)
        calls = len(server.answered())
    assert calls == {"revise": 3, "pair": 2, "label": 2}[stage] * count
    stream = random.Random(f"kill {stage}")
    kills, in_flight = 0, 0
    folder = tmp_path / "killed"
    folder.mkdir()
    with endpoint(tmp_path / "b", latency=0.002) as server:
        for moment in sorted(stream.randrange(calls) for _ in range(20)):
            process = processes.Process(target=work, args=(stage, server.spec, folder, count, http))
            process.start()
            log_size = moment * LOG_LINE_BYTES
            while server.log_file.stat().st_size < log_size and process.is_alive():
                time.sleep(0.001)
            time.sleep(stream.random() * 0.01)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            in_flight += connections
            time.sleep(0.01)
            assert len(server.answered()) - logged_calls(folder) <= in_flight
        work(stage, server.spec, folder, count, http)
        requests = Counter(name for name, _ in server.answered())
    assert kills == 20
    unkilled = (tmp_path / "unkilled" / f"{stage}.jsonl").read_bytes()
    assert (folder / f"{stage}.jsonl").read_bytes() == unkilled
    assert len(requests) == calls
    assert sum(requests.values()) - calls <= in_flight


# 1,000 pairs, and requests that hang until their timeout
@pytest.mark.slow
def test_faults_change_no_label(tmp_path: Path) -> None:
    """1,000 pairs, 30 % of requests with one of seven faults: each row has the label of the run
    without faults, or null and a reason.

    A judge that names neither option is the only lasting fault, and 6 attempts rarely fail in a
    row: few rows are null.
    """
    labels = {}
    for name, faults in (("clean", 0.0), ("faulty", 0.3)):
        (tmp_path / name).mkdir()
        with endpoint(tmp_path / f"server {name}", faults=faults, hang=1.0) as server:
            work("label", server.spec, tmp_path / name, 1000, {"connections": 32, "timeout": 0.3})
            if faults:
                faults_met = Counter(fault for _, fault in server.answered())
        labels[name] = list(read_rows(tmp_path / name / "label.jsonl", Preference))
    assert len(labels["clean"]) == len(labels["faulty"]) == 1000
    assert all(row.p_first is not None for row in labels["clean"])
    assert set(faults_met) == {"ok", *Behaviour().kinds}
    for clean, row in zip(labels["clean"], labels["faulty"], strict=True):
        assert row.source == clean.source
        assert row.p_first == clean.p_first if row.p_first is not None else row.unscored
    null = [row for row in labels["faulty"] if row.p_first is None]
    # two calls a row, 0.3 / 7 of them with a judge that names neither option: about 84
    assert 20 <= len(null) <= 150
    assert {row.unscored for row in null} >= {"the judge named none of the options"}

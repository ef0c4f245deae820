"""Stages through a batch queue: the rows are those of a run through calls, and no call is made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Capture, run_command
from endpoint import Endpoint, answer_to, endpoint
from json_lines import write_lines

from cai.lm.budget import Prices
from cai.pipeline.batches import batch_cost_line
from cai.pipeline.estimate import Forecast, Interval
from cai.records import Pair, chat_of
from cai.store import read_rows

PROMPTS = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with endpoint(tmp_path_factory.mktemp("server")) as running:
        yield running


def write_run(folder: Path, spec: str) -> Path:
    """A run of an endpoint with prompts and pairs."""
    kinds = ("disallowed", "benign")
    lines = [{"prompt": f"Question number {i}?", "kind": kinds[i % 2]} for i in range(2 * PROMPTS)]
    write_lines(folder / "prompts.jsonl", *lines)
    file = folder / "run.yaml"
    file.write_text(
        f"name: toy\nmodel: {spec}\nconstitution: assistant\nprompts: [prompts.jsonl]\n"
        f"held_out: 0.5\nfolder: {folder}/run\nrevise: {{samples: 2, rounds: 2}}\n"
        "label: {principles: 2}\n",
        encoding="utf-8",
    )
    (folder / "run").mkdir()
    pairs = [
        Pair(source=str(i), chat=chat_of(("user", f"Q{i}?")), first=f"One {i}.", second=f"Two {i}.")
        for i in range(PROMPTS)
    ]
    (folder / "run" / "30-pairs.jsonl").write_text("".join(p.line() + "\n" for p in pairs))
    return file


def answer(files: list[Path], output: Path, *, leave_out: int = 0) -> int:
    """What a queue would write; every `leave_out`-th request fails or is lost."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    rows = []
    for number, line in enumerate(lines):
        request = json.loads(line)
        assert (request["method"], request["url"]) == ("POST", "/v1/chat/completions")
        response = {"status_code": 200, "request_id": "r", "body": answer_to(request["body"])}
        if leave_out and number % leave_out == 0:
            response = {"status_code": 500, "request_id": "r", "body": {"error": "busy"}}
        if leave_out and number % leave_out == 1:
            continue
        rows.append({"id": "b", "custom_id": request["custom_id"], "response": response})
    write_lines(output, *rows[::-1])  # a queue keeps no order
    return len(lines)


def through_batches(capsys: Capture, folder: Path, file: Path, stage: str) -> list[int]:
    """Waves until the stage is finished; requests of each."""
    waves: list[int] = []
    while True:
        batches = folder / f"{stage}-{len(waves)}"
        emit = ("batch", "emit", stage, file, "--output", batches, "--max-requests", 7)
        done = run_command(capsys, *emit)
        assert done.code == 0, done.err
        files = [Path(line) for line in done.out.splitlines()]
        if not files:
            assert "finished" in done.err
            return waves
        assert all(len(f.read_text().splitlines()) <= 7 for f in files)
        output = folder / "output.jsonl"
        # the first wave loses lines, the others do not
        waves.append(answer(files, output, leave_out=0 if waves else 5))
        done = run_command(capsys, "batch", "ingest", file, output)
        assert done.code == 0, done.err
        assert len(waves) < 12


@pytest.mark.parametrize("stage", ["revise", "label"])
def test_batches_give_the_rows_of_calls(
    capsys: Capture, tmp_path: Path, server: Endpoint, stage: str
) -> None:
    """The reference run calls the server; the run through batches does not, and asks nothing that
    was answered again.
    """
    name = {"revise": "10-revisions.jsonl", "label": "40-preferences.jsonl"}[stage]
    rows = []
    for way in ("calls", "batches"):
        folder = tmp_path / way
        folder.mkdir()
        file = write_run(folder, server.spec)
        assert run_command(capsys, "run", file, "--until", "prompts").code == 0
        before = len(server.answered())
        if way == "calls":
            assert run_command(capsys, stage, file).code == 0
            called = len(server.answered()) - before
        else:
            waves = through_batches(capsys, folder, file, stage)
            assert len(server.answered()) == before, "no call leaves"
        rows.append((folder / "run" / name).read_bytes())
    assert rows[0] == rows[1]
    lost = sum(number % 5 < 2 for number in range(waves[0]))
    assert sum(waves) == called + lost, "only what was lost is asked for twice"


def test_the_price_of_a_queue() -> None:
    """2 of 4 money units are for stages that a queue can do; at half the price, 1."""

    def stage(name: str, model: str, cost: float) -> Forecast:
        nothing = Interval(0.0, 0.0, 0.0)
        money = Interval(cost, cost / 2, math.inf)
        return Forecast(name, model, 1, 1, nothing, nothing, 0.0, nothing, money, nothing)

    remote = "http://127.0.0.1:1/v1#toy"
    forecasts = [stage("revise", remote, 2.0), stage("eval", remote, 2.0)]
    assert batch_cost_line(forecasts, Prices()) == (
        "through a batch queue (cai batch), revise cost 1.00 [0.50, inf] at 50% of the price; "
        "the queue decides the hours"
    )
    assert batch_cost_line([stage("revise", "smollm2", 2.0)], Prices()) is None


def test_a_stage_of_a_model_that_runs_here(capsys: Capture, tmp_path: Path) -> None:
    file = write_run(tmp_path, "fake:polite")
    line = run_command(capsys, "batch", "emit", "revise", file).usage_error
    assert line.startswith("revise asks fake:polite, which runs here")
    line = run_command(capsys, "batch", "emit", "sft", file).usage_error
    assert line == "no batches for the stage sft: they are for revise, label"
    assert list(tmp_path.rglob(".part*")) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1}\n', "no line is one of a batch"),
        ("not JSON\n", "no line is one of a batch"),
        ("[" * 5000 + "\n", "no line is one of a batch"),
        ("", "no answer in these files"),
    ],
)
def test_a_file_that_no_queue_wrote(
    capsys: Capture, tmp_path: Path, text: str, problem: str
) -> None:
    file = write_run(tmp_path, "http://127.0.0.1:1/v1#toy")
    (tmp_path / "out.jsonl").write_text(text)
    line = run_command(capsys, "batch", "ingest", file, tmp_path / "out.jsonl").usage_error
    assert line.startswith(f"{tmp_path / 'out.jsonl'}: {problem}")


def test_hostile_answers_stay_open(capsys: Capture, tmp_path: Path) -> None:
    """Bodies that are no chat completion: the requests are open again, and nothing is written."""
    file = write_run(tmp_path, "http://127.0.0.1:1/v1#toy")
    assert run_command(capsys, "run", file, "--until", "prompts").code == 0
    emitted = run_command(capsys, "batch", "emit", "label", file)
    requests = Path(emitted.out.strip()).read_text(encoding="utf-8").splitlines()
    names = [json.loads(line)["custom_id"] for line in requests]
    bodies: list[object] = [{}, {"choices": []}, {"choices": "x"}, {"choices": [{"message": 3}]}]
    rows = [
        {"custom_id": name, "response": {"status_code": 200, "body": body}}
        for name, body in zip(names, bodies, strict=False)
    ]
    extra: list[dict[str, object]] = [
        {"custom_id": names[4], "response": {"body": []}},
        {"custom_id": names[5], "response": None, "error": {"code": "expired"}},
        {"custom_id": "../../label-" + "0" * 32, "response": {"body": {}}},
    ]
    write_lines(tmp_path / "out.jsonl", *rows, *extra)
    done = run_command(capsys, "batch", "ingest", file, tmp_path / "out.jsonl")
    assert done.code == 0
    assert f"open: {len(names)}" in done.err
    assert "1 lines left out: no body" in done.err
    out = tmp_path / "run" / "40-preferences.jsonl"
    assert not out.exists() or list(read_rows(out, Pair)) == []

"""`cai plan` says what it pays for before, and all of that is charged, logged and forecast."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from canned import Canned, ok
from cli_runner import Capture, run_command
from file_tools import SPEC, Endpoint, answer
from json_lines import write_lines
from tenacity import wait_none

import cai.lm
from cai.lm import http
from cai.lm.budget import Budget
from cai.lm.request_log import RequestLog
from cai.pipeline.config import load_run
from cai.pipeline.context import RunContext, open_run
from cai.pipeline.estimate import plan

RUN = """\
name: planned
model: {spec}
constitution: assistant
prompts: [prompts.jsonl]
held_out: 0.5
folder: out
reward_weights: {{pm: 1, direct: 1}}
prices: {{prompt: 1, completion: 2}}
"""


def faulty(body: dict[str, Any]) -> Canned | None:
    """Cut or without log-probabilities; no JSON; a malformed answer that counts its tokens."""
    kind = int(sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:8], 16) % 10
    result = answer(body)
    if kind in (0, 1):
        result["choices"][0] |= {"logprobs": None, "finish_reason": "length"}
        return ok(result)
    if kind == 2:
        return Canned(b"no JSON")
    if kind == 3:
        return ok({"usage": result["usage"]})
    return None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(http, "retry_wait", wait_none())
    monkeypatch.delenv(http.API_KEY_VARIABLE, raising=False)
    kinds = ("disallowed", "benign", "sensitive")
    write_lines(
        tmp_path / "prompts.jsonl",
        *({"prompt": f"question {i}", "kind": kinds[i % 3]} for i in range(30)),
    )
    (tmp_path / "run.yaml").write_text(RUN.format(spec=SPEC))
    server = Endpoint(faulty)
    monkeypatch.setattr(cai.lm, "HttpLM", server.open)
    return server


def test_all_that_is_paid_for_is_charged_logged_and_forecast(server: Endpoint) -> None:
    """Answers that were refused, and every attempt that ended in a malformed one."""
    budget = Budget()
    forecasts = plan(open_run(load_run(Path("run.yaml")), lambda name: lambda *_: None, budget), 12)
    assert [f.stage for f in forecasts] == ["revise", "pair", "label", "ppo", "eval"]
    assert budget.calls == server.requests
    assert budget.refused > 0
    probed = [(f, f.probed / f.rows) for f in forecasts]
    assert round(sum(f.calls.mean * share for f, share in probed)) == budget.calls
    assert sum(f.prompt.mean * share for f, share in probed) == pytest.approx(budget.prompt_tokens)
    assert sum(f.cost.mean * share for f, share in probed) == pytest.approx(budget.cost)
    rows = RequestLog(Path("out/requests.sqlite")).stats()
    assert sum(prompt for _, _, _, prompt, *_ in rows) == budget.prompt_tokens
    assert sum(completion for *_, completion, _ in rows) == budget.completion_tokens


def test_every_call_is_announced(server: Endpoint) -> None:
    """Before it leaves, with the model, and whether the run reuses the answers."""
    told: list[tuple[str, int]] = []
    resolved = load_run(Path("run.yaml"), [])
    ctx: RunContext = open_run(
        resolved,
        lambda name: lambda *_: None,
        None,
        lambda line: told.append((line, server.requests)),
    )
    forecasts = plan(ctx, 3)
    assert told[0][1] == 0
    counts = [count for _, count in told] + [server.requests]
    assert counts == sorted(set(counts)), "each stage's line comes before its calls"
    assert [line for line, _ in told] == [
        f"plan: 3 rows of {f.stage} are tried with {SPEC}: "
        + (
            "the run reuses the answers"
            if f.stage in ("revise", "eval")
            else "the run cannot use the answers"
        )
        for f in forecasts
    ]


def test_the_command_says_what_it_spent(server: Endpoint, capsys: Capture) -> None:
    result = run_command(capsys, "plan", "run.yaml", "--probe", 3)
    assert result.code == 0, result.err
    assert f"calls   {server.requests}   tokens " in result.err
    assert "answers refused" in result.err
    limited = run_command(capsys, "plan", "run.yaml", "--probe", 12, "--max-cost", "0.001")
    assert limited.code == 1
    assert "calls   " in limited.err


def test_a_run_on_this_machine_announces_nothing(
    server: Endpoint, capsys: Capture, tmp_path: Path
) -> None:
    result = run_command(capsys, "plan", "run.yaml", "--probe", 2, "--set", "model=fake:polite")
    assert result.code == 0
    assert "are tried with" not in result.err
    assert "calls   " not in result.err

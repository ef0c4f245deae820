"""The forecast of a run's cost: totals by hand, intervals, and probed answers that are reused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from endpoint import endpoint
from interruptions import no_progress
from json_lines import write_lines

from cai.errors import BudgetError
from cai.lm.budget import Budget, Prices
from cai.pipeline.config import load_run
from cai.pipeline.context import open_run
from cai.pipeline.estimate import (
    Forecast,
    Interval,
    evenly_spaced,
    exceeded_limits,
    forecast,
    forecast_table,
    plan,
    total,
)
from cai.pipeline.probe import Used, token_text
from cai.pipeline.runner import run_stages

COUNT = 60
RUN = """
name: planned
model: {spec}
constitution: assistant
prompts: [prompts.jsonl]
held_out: 0.5
folder: {folder}
revise: {{rounds: 1, helpful_samples: 2}}
label: {{principles: 2}}
eval: {{draws: 3}}
prices: {{prompt: 0.5, completion: 2.25}}
http: {{connections: 8}}
"""


def test_a_total_by_hand() -> None:
    """Values 1, 2, 3 of 12 rows: 24, and 12 * t(2) * 1 / sqrt(3) * sqrt(1 - 3/12) = 12 * 4.302653 /
    2 = 25.8159 to each side.
    """
    interval = total([1, 2, 3], 12)
    assert interval.mean == 24
    assert interval.low == 0  # 24 - 25.8 would be negative
    assert interval.high == pytest.approx(24 + 25.8159, abs=1e-3)


def test_intervals_when_all_rows_or_one_row_was_probed() -> None:
    assert total([1, 2, 3], 3) == Interval(6, 6, 6)
    assert total([5.0], 4) == Interval(20, 0, math.inf)


def test_a_stage_adds_up() -> None:
    """Two rows of 2 calls, 100 + 20 tokens, half of the prompt shared, 3 s of waiting at 4 in
    flight; ten rows in all.
    """
    used = [Used(calls=2, prompt=100, shared=50, completion=20, seconds=3.0) for _ in range(2)]
    result = forecast("pair", "m", used, 10, Prices(prompt=10, completion=100), 1 / 4)
    assert (result.calls.mean, result.prompt.mean, result.completion.mean, result.shared) == (
        20,
        1000,
        200,
        500,
    )
    assert result.cost.mean == pytest.approx(0.03)  # 1,000 at 10 and 200 at 100 per million
    assert result.hours.mean == pytest.approx(10 * 3 / 4 / 3600)


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (10, list(range(10))), (99, list(range(10)))],
)
def test_probed_rows_are_evenly_spaced(count: int, chosen: list[int]) -> None:
    assert evenly_spaced(range(10), count) == chosen


def planned(
    tmp_path: Path, spec: str, probe: int, budget: Budget | None = None, more: str = ""
) -> list[Forecast]:
    kinds = ("disallowed", "benign", "sensitive")
    lines = [json.dumps({"prompt": f"question {i}", "kind": kinds[i % 3]}) for i in range(COUNT)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        RUN.format(spec=spec, folder=tmp_path / "run") + more, encoding="utf-8"
    )
    return plan(open_run(load_run(tmp_path / "run.yaml"), no_progress, budget), probe)


def test_the_forecast_of_a_run(tmp_path: Path) -> None:
    """30 prompts train, 30 are held out. Revise: 20 rows of 3 calls, 10 prompts of 2 draws; 2 a
    pair; 2 principles in 2 orders; 3 draws for 3 subjects. Every call takes 50 + 10 tokens."""
    with endpoint(tmp_path / "server") as server:
        forecasts = {f.stage: f for f in planned(tmp_path, server.spec, 1000)}
        calls = {stage: f.calls.mean for stage, f in forecasts.items()}
        assert calls == {"revise": 20 * 3 + 20, "pair": 60, "label": 120, "eval": 270}
        assert forecasts["pair"].prompt == Interval(3000, 3000, 3000)
        assert forecasts["pair"].cost.mean == pytest.approx((3000 * 0.5 + 600 * 2.25) / 1e6)
        assert forecasts["revise"].shared > 0.3 * forecasts["revise"].prompt.mean  # the few-shots
        answered = len(server.answered())
        loaded = load_run(tmp_path / "run.yaml")
        run_stages(
            open_run(loaded, no_progress), ["prompts", "revise"], lambda stage, seconds: None
        )
        # every row was probed: the run reuses all answers
        assert len(server.answered()) == answered


def test_listed_evaluations_are_forecast(tmp_path: Path) -> None:
    """Of three subjects each: four pairs in two orders, and two questions under two instructions,
    each of which takes a sample, and a judgement of the letters. One needs what is not there yet.
    """
    pairs = [{"prompt": f"Hi {i}", "chosen": "A", "rejected": "B"} for i in range(4)]
    facts = [
        {"Question": f"Q{i}?", "Correct Answers": "A", "Incorrect Answers": "B"} for i in range(2)
    ]
    write_lines(tmp_path / "hhh.jsonl", *pairs)
    write_lines(tmp_path / "facts.jsonl", *facts)
    with endpoint(tmp_path / "server", kinds=()) as server:
        more = (
            "\nevaluations:\n  - {name: hhh, data: hhh.jsonl}\n"
            f"  - {{name: truthfulqa-open, data: facts.jsonl, uses: {{judge: '{server.spec}'}}}}\n"
            "  - {name: harm, data: hhh.jsonl, uses: {preference: run/50-reward}}\n"
        )
        forecasts = {f.stage: f for f in planned(tmp_path, server.spec, 9, more=more)}
    assert list(forecasts)[-2:] == ["eval hhh", "eval truthfulqa-open"]
    assert (forecasts["eval hhh"].rows, forecasts["eval hhh"].calls.mean) == (12, 24)
    assert forecasts["eval truthfulqa-open"].calls.mean == 3 * 2 * 2 * 2


def test_comparisons_of_named_subjects_are_forecast(tmp_path: Path) -> None:
    """90 replies of the prompted baseline; six pairs of subjects, 90 draws, two orders. Pairs are
    drawn from the model that is named.
    """
    with endpoint(tmp_path / "server") as server:
        planned(tmp_path, server.spec, 0)
        settings = ["eval.subjects={prompted: {system: Be kind.}}", "pair.subject=fake:polite"]
        loaded = load_run(tmp_path / "run.yaml", settings)
        forecasts = {f.stage: f for f in plan(open_run(loaded, no_progress), 3)}
        assert forecasts["eval elo prompted"].calls.mean == 90
        assert forecasts["eval elo"].rows == 6 * 90
        assert forecasts["eval elo"].model == server.spec
        assert forecasts["pair"].model == "fake:polite"


def test_ratings_of_rollouts_are_forecast(tmp_path: Path) -> None:
    """Direct RLAIF calls the judge once a rollout, 5 updates of 4 x 1.5 prompts x 2 replies, and
    once a reply of the evaluation.
    """
    with endpoint(tmp_path / "server") as server:
        more = (
            "\nreward_weights: {pm: 0, direct: 1}\n"
            "ppo: {num_updates: 5, rollout: "
            "{prompts_per_update: 4, responses_per_prompt: 2, candidates: 1.5}}\n"
        )
        forecasts = {f.stage: f for f in planned(tmp_path, server.spec, 6, more=more)}
    assert list(forecasts) == ["revise", "pair", "label", "ppo", "eval"]
    assert forecasts["ppo"].calls.mean == 60 + forecasts["eval"].rows


def test_a_few_rows_cost_a_few_calls(tmp_path: Path) -> None:
    """3 rows a stage: 3 of 2 or 3 calls, 3 pairs, 3 labels of 4, 3 replies; and the interval holds
    the true number.
    """
    with endpoint(tmp_path / "server") as server:
        forecasts = {f.stage: f for f in planned(tmp_path, server.spec, 3)}
        assert len(server.answered()) <= 9 + 6 + 12 + 3
    assert forecasts["revise"].probed == 3
    assert forecasts["revise"].rows == 40
    assert forecasts["revise"].calls.low <= 80 <= forecasts["revise"].calls.high
    table = forecast_table(list(forecasts.values()))
    assert table.row_count == 5


def test_a_probe_keeps_to_the_budget(tmp_path: Path) -> None:
    with endpoint(tmp_path / "server") as server, pytest.raises(BudgetError, match="--max-tokens"):
        planned(tmp_path, server.spec, 20, Budget(max_tokens=60))


def test_limits_that_the_forecast_breaks() -> None:
    """Ten rows of 120 tokens at 1 per million each way: 1,200 tokens at a cost of 0.0012."""
    used = [Used(calls=2, prompt=100, completion=20, seconds=3.6)] * 2
    forecasts = [forecast("label", "m", used, 10, Prices(prompt=1, completion=1), 1.0)]
    assert (
        exceeded_limits(forecasts, Budget(max_cost=0.0013, max_tokens=1201, max_hours=0.011)) == []
    )
    assert exceeded_limits(
        forecasts, Budget(max_cost=0.0011, max_tokens=1199, max_hours=0.009)
    ) == [
        "--max-cost 0.0011 is less than the 0.0012 to expect",
        "--max-tokens 1199 is less than the 1,200 to expect",
        "--max-hours 0.009 is less than the 0.01 to expect",
    ]


def test_prompts_of_a_local_model_are_compared_by_token() -> None:
    """A character for each token, through the wrappers of a model; nothing of a model elsewhere."""

    class Renderer:
        def prompt_ids(self, chat: object) -> list[int]:
            return [1, 0xD800, 50_000]

    local = SimpleNamespace(lm=SimpleNamespace(renderer=Renderer()))
    text = token_text(local, ())  # type: ignore[arg-type]
    assert text is not None
    assert [ord(character) - 0x10000 for character in text] == [1, 0xD800, 50_000]
    assert token_text(SimpleNamespace(lm=None), ()) is None  # type: ignore[arg-type]

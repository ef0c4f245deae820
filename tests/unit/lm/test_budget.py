"""Budgets: limits that end a run, and what a resumed run pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from endpoint import endpoint
from lm_calls import HELLO, run_calls

from cai.errors import BudgetError
from cai.lm.budget import Budget, MeteredLM, Prices
from cai.lm.caching import CachedLM
from cai.lm.http import HttpLM
from cai.lm.request_log import RequestLog


@pytest.mark.parametrize(
    ("limit", "name"),
    [({"max_tokens": 120}, "--max-tokens 120"), ({"max_cost": 0.0009}, "--max-cost 0.0009")],
)
def test_a_budget_ends_the_run_and_the_log_goes_on(
    tmp_path: Path, limit: dict[str, float], name: str
) -> None:
    """A call takes 50 + 10 tokens and, at 5 and 20 per million, costs 0.00045.

    Two calls reach either limit, and the third is not made. A second run with a new budget takes
    the two from the log and makes two more.
    """
    prices = Prices(prompt=5, completion=20)
    with endpoint(tmp_path / "s") as server:
        for run in (1, 2):
            budget = Budget(**limit)
            lm = CachedLM(
                MeteredLM(HttpLM(server.spec), budget, prices), RequestLog(tmp_path / "log.sqlite")
            )

            async def calls(lm: Any) -> None:
                for seed in range(10):
                    await lm.sample(HELLO, max_tokens=16, temperature=1.0, seed=seed)

            with pytest.raises(BudgetError, match=f"{name} is reached .*run again"):
                run_calls(lm, calls)
            assert (budget.calls, budget.tokens) == (2, 120)
            assert budget.cost == pytest.approx(0.0009)
            assert len(server.answered()) == 2 * run


def test_hours_are_a_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(max_hours=0.5)
    budget.check()
    budget.started -= 1801
    with pytest.raises(BudgetError, match=r"--max-hours 0\.5 is reached"):
        budget.check()

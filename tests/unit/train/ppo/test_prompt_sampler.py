"""The prompts of an update: passes in random order, shares of kinds, repetitions."""

from __future__ import annotations

import pytest
from ppo_toys import PROMPTS

from cai.errors import TrainError
from cai.records import Prompt, chat_of
from cai.train.ppo.config import PPOConfig
from cai.train.ppo.prompt_sampler import allocate, sample_prompts, with_repeat_index


def test_each_pass_has_every_prompt_once() -> None:
    """Seven prompts, three an update: seven updates are three passes, each in another order."""
    prompts = [Prompt(chat=chat_of(("user", str(i)))) for i in range(7)]
    drawn = [p.id for step in range(7) for p in sample_prompts(prompts, 3, 0, step)]
    passes = [drawn[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(ids) == sorted(p.id for p in prompts) for ids in passes)
    assert len({tuple(ids) for ids in passes}) == 3


def test_prompts_are_addressed_by_step() -> None:
    """A step draws the same prompts alone, in any order, and again; another seed draws others;
    prompts repeat where the step needs more than there are.
    """
    forwards = [[p.id for p in sample_prompts(PROMPTS, 3, 0, step)] for step in range(6)]
    backwards = [[p.id for p in sample_prompts(PROMPTS, 3, 0, step)] for step in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert forwards != [[p.id for p in sample_prompts(PROMPTS, 3, 1, step)] for step in range(6)]
    assert len(sample_prompts(PROMPTS, 12, 0, 0)) == 12


def test_quotas_by_largest_remainder() -> None:
    """16 in the ratio 5:2:9 is exact; 7 in 1:1:1 is 2.33 each: the last one goes to the first; 4 in
    5:2:9 is 1.25, .5, 2.25.
    """
    assert allocate({"disallowed": 5, "sensitive": 2, "benign": 9}, 16) == {
        "disallowed": 5,
        "sensitive": 2,
        "benign": 9,
    }
    assert allocate({"disallowed": 1, "sensitive": 1, "benign": 1}, 7) == {
        "disallowed": 3,
        "sensitive": 2,
        "benign": 2,
    }
    assert allocate({"disallowed": 5, "sensitive": 2, "benign": 9}, 4) == {
        "disallowed": 1,
        "sensitive": 1,
        "benign": 2,
    }


def test_shares_of_kinds() -> None:
    prompts = [
        Prompt(chat=chat_of(("user", f"{kind} {i}")), kind=kind)
        for kind in ("disallowed", "benign")
        for i in range(5)
    ]
    drawn = [
        sample_prompts(prompts, 4, 0, step, {"disallowed": 1, "benign": 3}) for step in range(5)
    ]
    assert all([p.kind for p in step] == ["disallowed"] + ["benign"] * 3 for step in drawn)
    assert len({p.id for step in drawn for p in step if p.kind == "disallowed"}) == 5, (
        "one pass sees every prompt once"
    )
    with pytest.raises(TrainError, match="sensitive"):
        sample_prompts(prompts, 4, 0, 0, {"sensitive": 1})


def test_a_category_may_have_a_share() -> None:
    """`benign` then means the other benign prompts; a key that is no kind is refused."""
    categories = ("borderline", "plain", None)
    prompts = [
        Prompt(chat=chat_of(("user", f"{c} {i}")), kind="benign", category=c)
        for c in categories
        for i in range(4)
    ]
    for step in range(4):
        drawn = sample_prompts(prompts, 4, 0, step, {"benign/borderline": 3, "benign": 1})
        assert [p.category == "borderline" for p in drawn] == [True, True, True, False]
    assert PPOConfig(rollout={"shares": {"benign/border line": 1, "disallowed": 2}}).rollout.shares
    with pytest.raises(ValueError, match="String should match pattern"):
        PPOConfig(rollout={"shares": {"borderline": 1}})


def test_repetitions_are_counted_in_order() -> None:
    a, b = PROMPTS[:2]
    assert with_repeat_index([a, b, a, a, b]) == [(a, 0), (b, 0), (a, 1), (a, 2), (b, 1)]
    assert [n for _, n in with_repeat_index(sample_prompts(PROMPTS, 12, 0, 0))].count(0) == 5

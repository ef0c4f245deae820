"""PPO's formulas: golden values, computed by hand in each docstring, and properties of random
batches.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cai.train.losses import (
    KLController,
    center_by_group,
    entropy,
    exact_kl,
    gae,
    k1,
    k3,
    leave_one_out,
    masked_mean,
    policy_loss,
    scale_by_group,
    scale_by_std,
    soft_bradley_terry,
    token_rewards,
    value_loss,
    whiten,
)

SEEDS = st.integers(0, 2**31)


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(got: Tensor, want: Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, want, atol=atol, rtol=0)


# ---- by hand ----


def test_gae_three_steps() -> None:
    """r = (0, 0, 1), V = 1/2, gamma = 1, lam = .95: delta = (0, 0, .5); A2 = .5, A1 = .95*.5 =
    .475, A0 = .95*.475 = .45125.
    """
    got = gae(
        t(0, 0, 1)[None],
        t(0.5, 0.5, 0.5)[None],
        torch.ones(1, 3, dtype=torch.bool),
        gamma=1.0,
        lam=0.95,
    )
    close(got, t(0.45125, 0.475, 0.5)[None])


def test_gae_with_padding_and_discount() -> None:
    """r = (1, 2), V = (1, 3), gamma = lam = 1/2: A1 = 2-3 = -1; A0 = 1 + .5*3 - 1 + .25*(-1) =
    1.25. Padding has no effect.
    """
    mask = torch.tensor([[True, True, False]])
    got = gae(t(1, 2, 700)[None], t(1, 3, 90)[None], mask, gamma=0.5, lam=0.5)
    close(got, t(1.25, -1, 0)[None])


def test_leave_one_out() -> None:
    """Group 0: 1 - (2 + 6)/2 = -3; 2 - 3.5 = -1.5; 6 - 1.5 = 4.5. Group 7 has one: 0."""
    groups = torch.tensor([0, 0, 7, 0])
    close(leave_one_out(t(1, 2, 9, 6), groups), t(-3, -1.5, 0, 4.5))


def test_each_group_is_scaled_by_its_root_mean_square() -> None:
    """Group 0: squares 9 and 16 over two tokens, root of 12.5. Group 1: 0.001 is far below a tenth
    of the batch's root of 25.000001/3, which divides there.
    """
    mask = torch.tensor([[True, True], [True, False]])
    got = scale_by_group(torch.stack([t(3, 4), t(0.001, 0)]), mask, torch.tensor([0, 1]))
    floor = 0.1 * math.sqrt(25.000001 / 3)
    want = torch.stack([t(3, 4) / math.sqrt(12.5), t(0.001, 0) / floor])
    close(got, want, atol=1e-7)


def test_value_loss_without_clip() -> None:
    """Errors 1 and 3: half of (1 + 9) / 2."""
    close(value_loss(t(1, 5), t(0, 0), t(2, 2), None), t(2.5)[0])


def test_token_rewards_puts_the_score_on_the_last_real_token() -> None:
    """beta = .1, k1 = (.5, -1 | 6): -.05 and .1 for the KL; scores 2 and -1 are added at
    positions 1 and 0; padding gets 0.
    """
    logp = torch.stack([t(-1, -2, -3), t(-1, -7, -7)])
    ref = torch.stack([t(-1.5, -1, -9), t(-3, -7.5, -1)])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    got = token_rewards(t(2, -1), logp, ref, mask, 0.1)
    close(got, torch.stack([t(-0.05, 2.1, 0), t(-1.2, 0, 0)]))


def test_policy_loss_clipped_and_not() -> None:
    """Ratios (2, 2, 1/2, 1/2), advantages (1, -1, 1, -1), clip .2: the pessimistic terms are (1.2,
    -2, .5, -.8).

    Their mean is -1.1/4, negated .275. A clipped term has no gradient; the others have -ratio *
    advantage / 4.
    """
    logp = t(math.log(2), math.log(2), -math.log(2), -math.log(2)).requires_grad_()
    loss = policy_loss(logp, t(0, 0, 0, 0), t(1, -1, 1, -1), 0.2)
    close(loss, torch.tensor(0.275, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, logp)
    close(gradient, t(0, 0.5, -0.125, 0))


def test_value_loss_is_pessimistic() -> None:
    """clip .2. V 0 -> 1, return 2: plain 1, clipped (.2-2)^2 = 3.24. V 2 -> 1, return 2: plain 1,
    clipped (1.8-2)^2 = .04.

    Half the mean of (3.24, 1) is 1.06.
    """
    got = value_loss(t(1, 1), t(0, 2), t(2, 2), 0.2)
    close(got, torch.tensor(1.06, dtype=torch.float64))


def test_fixed_controller_stays() -> None:
    fixed = KLController(0.1)
    assert fixed.updated(1e9, 10_000) is fixed


def test_exact_kl_by_hand() -> None:
    """pi = (1/2, 1/4, 1/4), ref = (1/4, 1/2, 1/4): ln 2/2 − ln 2/4 = ln 2/4. At T = 1/2 they are
    (4, 1, 1)/6 and (1, 4, 1)/6: 4/6·ln 4 − 1/6·ln 4 = ln 2.

    A token that pi excludes adds nothing; one that only the reference excludes makes it infinite.
    """
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    reference = torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert exact_kl(logits, reference).item() == pytest.approx(math.log(2) / 4)
    assert exact_kl(logits / 0.5, reference / 0.5).item() == pytest.approx(math.log(2))
    assert exact_kl(logits, logits).item() == 0
    one, both = torch.tensor([[0.0, -torch.inf]]), torch.tensor([[0.0, 0.0]])
    assert exact_kl(one, both).item() == pytest.approx(math.log(2))
    assert exact_kl(both, one).item() == math.inf


def test_exact_kl_is_the_mean_of_sampled_log_ratios() -> None:
    """With less variance: none, here."""
    torch.manual_seed(0)
    logits, reference = torch.randn(1, 5), torch.randn(1, 5)
    logp, ref_logp = logits.log_softmax(-1)[0], reference.log_softmax(-1)[0]
    tokens = torch.multinomial(logp.exp(), 200_000, replacement=True)
    ratios = k1(logp[tokens], ref_logp[tokens])
    exact = exact_kl(logits, reference).item()
    assert ratios.mean().item() == pytest.approx(exact, abs=5 * float(ratios.std()) / 447)


@pytest.mark.parametrize(
    ("kl", "beta"), [(5.5, 0.101), (5.0, 0.1), (50.0, 0.102), (0.0, 0.098), (-3.0, 0.098)]
)
def test_adaptive_controller(kl: float, beta: float) -> None:
    """beta = .1, target 5, 100 of 1000 episodes: .1 * (1 + .1 * error); the error of 5.5 is .1;
    larger ones are clipped to .2.
    """
    after = KLController(0.1, 5.0, 1000).updated(kl, 100)
    assert after.beta == pytest.approx(beta, abs=1e-15)
    assert (after.target, after.horizon) == (5.0, 1000)


@pytest.mark.parametrize(("target", "horizon"), [(0.0, 10), (-1.0, 10), (1.0, 0)])
def test_adaptive_controller_needs_positive_numbers(target: float, horizon: int) -> None:
    with pytest.raises(ValueError, match="target > 0 and horizon > 0"):
        KLController(0.1, target, horizon)


def test_kl_estimators_on_two_symbols() -> None:
    """pi = (.8, .2), ref = (.5, .5): k1 = (ln 1.6, ln .4), k3 = (.625 - 1 + ln 1.6, 2.5 - 1 + ln
    .4).

    The expectation of both over pi is the true KL: .8 ln 1.6 + .2 ln .4, as E[1/ratio] = .8*.625 +
    .2*2.5 = 1.
    """
    pi, ref = t(0.8, 0.2), t(0.5, 0.5)
    close(k1(pi.log(), ref.log()), t(math.log(1.6), math.log(0.4)))
    close(k3(pi.log(), ref.log()), t(math.log(1.6) - 0.375, math.log(0.4) + 1.5))
    truth = torch.tensor(0.8 * math.log(1.6) + 0.2 * math.log(0.4), dtype=torch.float64)
    close((pi * k1(pi.log(), ref.log())).sum(), truth)
    close((pi * k3(pi.log(), ref.log())).sum(), truth)


@pytest.mark.parametrize(
    ("margin", "p", "want"),
    [
        (0.0, 0.5, math.log(2)),  # both terms are log sigma(0) = -ln 2
        (0.0, 0.7, math.log(2)),  # the same with other weights
        (2.0, 1.0, math.log(1 + math.exp(-2))),  # -log sigma(2)
        # log sigma(-2) = log sigma(2) - 2, with weight .3
        (2.0, 0.7, math.log(1 + math.exp(-2)) + 0.6),
    ],
)
def test_soft_bradley_terry(margin: float, p: float, want: float) -> None:
    got = soft_bradley_terry(t(margin + 1), t(1), t(p))
    close(got, torch.tensor(want, dtype=torch.float64))


def test_soft_bradley_terry_is_least_at_the_label() -> None:
    """d/dm = sigma(m) - p: zero at m = ln(p / (1-p)), and at equal scores for p = 1/2; -.2/2 and
    .3/2 at m = 0 otherwise.
    """
    first = t(0, math.log(0.7 / 0.3)).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_bradley_terry(first, t(0, 0), t(0.5, 0.7)), first)
    close(gradient, t(0, 0))
    first = t(0, 0).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_bradley_terry(first, t(0, 0), t(0.7, 0.2)), first)
    close(gradient, t(-0.1, 0.15))


def test_entropy() -> None:
    """Four equal logits: ln 4. (.8, .2), shifted by any constant: -.8 ln .8 - .2 ln .2. A certain
    outcome: 0.
    """
    close(entropy(t(3, 3, 3, 3)[None]), t(math.log(4)))
    close(entropy(t(0.8, 0.2).log()[None] + 17), t(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)))
    close(entropy(t(0, -900)[None]), t(0))


def test_center_by_group() -> None:
    """Groups by rows: (1, 3 | 5) and (2, masked | 0): means (1 + 3 + 5) / 3 = 3 and (2 + 0) / 2 =
    1; masked entries become 0.
    """
    x = torch.stack([t(1, 3), t(2, 99), t(5, 99), t(0, 99)])
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    want = torch.stack([t(-2, 0), t(1, 0), t(2, 0), t(-1, 0)])
    close(center_by_group(x, mask, torch.tensor([0, 1, 0, 1])), want, atol=1e-7)
    close(
        center_by_group(x, mask, torch.zeros(4, dtype=torch.long))[mask],
        x[mask] - x[mask].mean(),
        atol=1e-6,
    )


def test_whiten_and_scale_by_std() -> None:
    """Of (1, 3) the mean is 2 and the variance 1: (-1, 1). Of (2, 6), variance 4: (1, 3). The third
    number is masked out.
    """
    mask = torch.tensor([[True, True, False]])
    close(whiten(t(1, 3, 99)[None], mask)[mask], t(-1, 1), atol=1e-7)
    close(scale_by_std(t(2, 6, 99)[None], mask)[mask], t(1, 3), atol=1e-7)
    close(scale_by_std(t(0, 6, 0)[None], mask)[0, :1], t(0))


def test_the_mean_of_an_empty_mask_is_nan() -> None:
    assert torch.isnan(masked_mean(t(1, 2), torch.tensor([False, False])))
    close(
        masked_mean(t(1, 2, 9), torch.tensor([True, True, False])),
        torch.tensor(1.5, dtype=torch.float64),
    )


# ---- random batches ----


def batch(seed: int, B: int = 4, T: int = 6) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    stream = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (B,), generator=stream)
    mask_BT = torch.arange(T) < lengths[:, None]
    rewards_BT, values_BT = torch.randn(2, B, T, generator=stream, dtype=torch.float64)
    return rewards_BT, values_BT, mask_BT, lengths.tolist()


@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_gae_is_its_definition(seed: int, gamma: float, lam: float) -> None:
    """A_t = sum over k >= t of (gamma lam)^(k-t) * (r_k + gamma V_(k+1) - V_k), written out as two
    loops.
    """
    rewards, values, mask, lengths = batch(seed)
    got = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for i, n in enumerate(lengths):
        for start in range(rewards.shape[1]):
            want = 0.0
            for k in range(start, n):
                following = float(values[i, k + 1]) if k + 1 < n else 0.0
                want += (gamma * lam) ** (k - start) * (
                    float(rewards[i, k]) + gamma * following - float(values[i, k])
                )
            assert float(got[i, start]) == pytest.approx(want, abs=1e-10)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_padding_has_no_effect(seed: int) -> None:
    """Other numbers in masked entries, and two more masked columns, change no advantage and no
    reward of a real token.
    """
    rewards, values, mask, _ = batch(seed)
    junk = torch.where(mask, 0.0, 1e3)
    wide = torch.nn.functional.pad(mask, (0, 2))

    def widen(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x + junk, (0, 2), value=-5e2)

    want = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    assert torch.equal(gae(widen(rewards), widen(values), wide, gamma=0.9, lam=0.8)[:, :-2], want)
    scores = torch.arange(len(mask), dtype=torch.float64)
    want = token_rewards(scores, rewards, values, mask, 0.3)
    got = token_rewards(scores, widen(rewards), widen(values), wide, 0.3)
    assert torch.equal(got[:, :-2], want)
    assert (got[:, -2:] == 0).all()
    close(want.sum(1), scores - 0.3 * ((rewards - values) * mask).sum(1), atol=1e-10)
    close(whiten(widen(rewards), wide)[wide], whiten(rewards, mask)[mask], atol=1e-10)


@given(SEEDS, st.permutations(range(4)))
@settings(max_examples=30, deadline=None)
def test_the_order_of_a_batch_has_no_effect(seed: int, order: list[int]) -> None:
    rewards, values, mask, _ = batch(seed)
    scores = torch.arange(4, dtype=torch.float64)
    assert torch.equal(
        gae(rewards[order], values[order], mask[order], gamma=1.0, lam=0.95),
        gae(rewards, values, mask, gamma=1.0, lam=0.95)[order],
    )
    assert torch.equal(
        token_rewards(scores[order], rewards[order], values[order], mask[order], 0.1),
        token_rewards(scores, rewards, values, mask, 0.1)[order],
    )
    adv, old = rewards[mask], values[mask]
    shuffled = torch.randperm(len(adv), generator=torch.Generator().manual_seed(seed))
    new = old + 0.3 * adv
    close(
        policy_loss(new[shuffled], old[shuffled], adv[shuffled], 0.2),
        policy_loss(new, old, adv, 0.2),
    )
    close(
        value_loss(new[shuffled], old[shuffled], adv[shuffled], 0.2), value_loss(new, old, adv, 0.2)
    )


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_k3_is_never_negative_and_both_expectations_are_the_kl(seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    logp, ref = torch.randn(2, 7, generator=stream, dtype=torch.float64).log_softmax(-1)
    truth = (logp.exp() * (logp - ref)).sum()
    assert (k3(logp, ref) >= 0).all()
    close((logp.exp() * k1(logp, ref)).sum(), truth)
    close((logp.exp() * k3(logp, ref)).sum(), truth)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_whitened_numbers_have_mean_0_and_variance_1(seed: int) -> None:
    """At least two different numbers; the 1e-8 under the root changes the variance by at most
    1e-8 / variance.
    """
    rewards, _, mask, _ = batch(seed, B=6)
    white = whiten(rewards, mask)[mask]
    assert float(white.mean()) == pytest.approx(0, abs=1e-9)
    assert float(white.var(unbiased=False)) == pytest.approx(1, abs=1e-5)
    scaled = scale_by_std(rewards, mask)[mask]
    assert float(scaled.var(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert torch.equal(scaled.sign(), rewards[mask].sign())


def test_a_ratio_that_overflows_has_a_gradient() -> None:
    """e^99 overflows float32. The gradient of a clipped ratio is 0, not 0 * inf; that of the other
    token, of ratio 1, is -1/2.
    """
    logp_N = torch.tensor([-1.0, -1.0], requires_grad=True)
    policy_loss(logp_N, torch.tensor([-100.0, -1.0]), torch.ones(2), 0.2).backward()  # type: ignore[no-untyped-call]
    assert logp_N.grad is not None
    assert logp_N.grad.tolist() == [0.0, -0.5]

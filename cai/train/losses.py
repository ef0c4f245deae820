"""Losses and estimators of PPO and of the preference model, as pure functions of tensors.

B batch, T response token, N packed tokens, V vocabulary. Masks are True on real response tokens. No
function adds an epsilon to a mean: an empty mask should be seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean where `mask` is True."""
    return x[mask].mean()


def inverse_std(x: Tensor) -> Tensor:
    """What `x` is multiplied by to have unit variance."""
    return torch.rsqrt(x.var(unbiased=False) + 1e-8)


def scale_by_std(x: Tensor, mask: Tensor) -> Tensor:
    """Unit variance over `mask`; the mean is scaled but not removed: zero stays zero (rewards)."""
    return x * inverse_std(x[mask])


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Zero mean, unit variance over `mask` (advantages)."""
    return scale_by_std(x - masked_mean(x, mask), mask)


def center_by_group(x_BT: Tensor, mask_BT: Tensor, group_B: Tensor) -> Tensor:
    """`x_BT` less the mean over `mask_BT` of the rows that are of the same group (integers); 0
    outside the mask.

    The mean over prompts of one kind is a baseline. Including the row itself biases the gradient by
    O(1 / rows of the kind) (arXiv:1506.02438, section 2).
    """
    same_BB = (group_B[:, None] == group_B[None, :]).to(x_BT.dtype)
    sums_B, counts_B = (x_BT * mask_BT).sum(1), mask_BT.sum(1).to(x_BT.dtype)
    mean_B = (same_BB @ sums_B) / (same_BB @ counts_B).clamp(min=1)
    return (x_BT - mean_B[:, None]) * mask_BT


def scale_by_group(x_BT: Tensor, mask_BT: Tensor, group_B: Tensor) -> Tensor:
    """`x_BT` over the root mean square (over `mask_BT`) of the rows of the same group (integers).

    A group that hardly varies is not blown up: its divisor is at least a tenth of the whole batch's
    root mean square.
    """
    same_BB = (group_B[:, None] == group_B[None, :]).to(x_BT.dtype)
    squares_B, counts_B = (x_BT.square() * mask_BT).sum(1), mask_BT.sum(1).to(x_BT.dtype)
    mean_square_B = (same_BB @ squares_B) / (same_BB @ counts_B).clamp(min=1)
    least = 0.01 * squares_B.sum() / counts_B.sum()
    return x_BT * torch.rsqrt(mean_square_B.clamp(min=least) + 1e-8)[:, None]


def leave_one_out(score_B: Tensor, group_B: Tensor) -> Tensor:
    """(B,) each score less the mean of the others of its group (integers); 0 for a group of one.

    Source: arXiv:2402.14740, section 3 (RLOO). Unbiased, since a response is no part of its own
    baseline.
    """
    same_BB = (group_B[:, None] == group_B[None, :]).to(score_B.dtype)
    count_B = same_BB.sum(1)
    others_B = (same_BB @ score_B - score_B) / (count_B - 1).clamp(min=1)
    return torch.where(count_B > 1, score_B - others_B, torch.zeros_like(score_B))


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Generalised advantages, eq. 16 of arXiv:1506.02438; 0 where `mask_BT` is False. Real tokens
    come first in a row.

    A_t = delta_t + gamma*lam*A_{t+1}      delta_t = r_t + gamma*V_{t+1} - V_t      V after the last
    token is 0
    """
    advantage_B = next_value_B = torch.zeros_like(rewards_BT[:, 0])
    advantages = []
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = (delta_B + gamma * lam * advantage_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t] * mask_BT[:, t]
        advantages.append(advantage_B)
    return torch.stack(advantages[::-1], dim=1)


def token_rewards(
    score_B: Tensor, logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor, beta: float
) -> Tensor:
    """Reward per token: -beta * (log pi - log pi_ref) everywhere, plus the score at the last real
    token.

    r_t = -beta * k1_t + [t = last] * R      arXiv:1909.08593 eq. 2, per token as in
    arXiv:2203.02155
    """
    rewards_BT = -beta * k1(logp_BT, ref_logp_BT) * mask_BT
    last_B = mask_BT.sum(1) - 1
    return rewards_BT.index_put((torch.arange(len(score_B)), last_B), score_B, accumulate=True)


def kl_metrics(logp_BT: Tensor, ref_logp_BT: Tensor, mask_BT: Tensor) -> dict[str, float]:
    """`kl` and `kl_k3`: both estimates of KL(pi, pi_ref), summed over a response's tokens, mean
    over responses; nats a response.
    """
    return {
        "kl": float((k1(logp_BT, ref_logp_BT) * mask_BT).sum(1).mean()),
        "kl_k3": float((k3(logp_BT, ref_logp_BT) * mask_BT).sum(1).mean()),
    }


def explained_variance_within(value_N: Tensor, return_N: Tensor, group_N: Tensor) -> float | None:
    """`explained_variance` of what is left of both when the mean of each group (integers) is
    subtracted: knowing a group's mean return explains none of it.
    """
    values_N, returns_N = torch.zeros_like(value_N), torch.zeros_like(return_N)
    for group in set(group_N.tolist()):
        of_group_N = group_N == group
        values_N[of_group_N] = value_N[of_group_N] - value_N[of_group_N].mean()
        returns_N[of_group_N] = return_N[of_group_N] - return_N[of_group_N].mean()
    return explained_variance(values_N, returns_N)


def explained_variance(value_N: Tensor, return_N: Tensor) -> float | None:
    """1 - Var(return - value) / Var(return); None where equal returns leave nothing to explain."""
    variance = float(return_N.var(unbiased=False))
    unexplained = float((return_N - value_N).var(unbiased=False))
    return 1 - unexplained / variance if variance else None


def k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """log pi - log pi_ref of a sampled token: unbiased for KL(pi, pi_ref) over samples of pi; may
    be negative.
    """
    return logp - ref_logp


def k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """exp(-k1) - 1 + k1: unbiased as well, never negative, of lower variance.

    Source of k1 and k3: J. Schulman, "Approximating KL Divergence", 2020.
    """
    log_ratio = ref_logp - logp
    return log_ratio.exp() - 1 - log_ratio


def policy_loss(logp_N: Tensor, old_logp_N: Tensor, advantage_N: Tensor, clip: float) -> Tensor:
    """Clipped surrogate, eq. 7 of arXiv:1707.06347, negated; mean over tokens."""
    # beyond e^20 a ratio is clipped or the run is lost; left to overflow, its gradient would be 0 *
    # inf where it is clipped
    ratio_N = (logp_N - old_logp_N).clamp(max=20.0).exp()
    return -torch.min(ratio_N * advantage_N, ratio_N.clamp(1 - clip, 1 + clip) * advantage_N).mean()


def value_loss(
    value_N: Tensor, old_value_N: Tensor, return_N: Tensor, clip: float | None
) -> Tensor:
    """Half the mean of the larger of clipped and plain squared error (arXiv:1909.08593's code): a
    pessimistic bound. Without `clip`, of the plain one.
    """
    if clip is None:
        return 0.5 * ((value_N - return_N) ** 2).mean()
    clipped_N = old_value_N + (value_N - old_value_N).clamp(-clip, clip)
    return 0.5 * torch.max((value_N - return_N) ** 2, (clipped_N - return_N) ** 2).mean()


def entropy(logits_NV: Tensor) -> Tensor:
    """(N,) entropy of each next-token distribution, nats."""
    logp_NV = logits_NV.log_softmax(-1)
    return -(logp_NV.exp() * logp_NV).sum(-1)


def exact_kl(logits_NV: Tensor, ref_logits_NV: Tensor) -> Tensor:
    """(N,) KL(pi, pi_ref) of each next-token distribution, nats: the sum over the vocabulary of
    pi * (log pi - log pi_ref), which is the mean of `k1` over samples of pi.
    """
    logp_NV = logits_NV.log_softmax(-1)
    log_ratio_NV = logp_NV - ref_logits_NV.log_softmax(-1)
    p_NV = logp_NV.exp()
    # a token that pi excludes adds nothing, whatever its ratio; rounding may leave less than 0
    return torch.where(p_NV > 0, p_NV * log_ratio_NV, 0.0).sum(-1).clamp(min=0)


@dataclass(frozen=True)
class KLController:
    """The weight of the KL penalty, and how it follows the measured KL. Immutable: `updated` gives
    the next one.

    Fixed when `target` is None. Adaptive otherwise (arXiv:1909.08593 section 2.2):
        beta <- beta * (1 + clip(KL / target - 1, -0.2, 0.2) * n / horizon)
    """

    beta: float
    """Reward lost per nat."""
    target: float | None = None
    """Nats per reply (summed over its tokens)."""
    horizon: float = 10_000
    """Episodes."""

    def __post_init__(self) -> None:
        if self.target is not None and (self.target <= 0 or self.horizon <= 0):
            raise ValueError(
                "an adaptive controller needs target > 0 and horizon > 0, "
                f"got {self.target} and {self.horizon}"
            )

    def updated(self, kl: float, episodes: int) -> KLController:
        """The controller after `episodes` replies whose mean KL was `kl` nats."""
        if self.target is None:
            return self
        error = max(-0.2, min(0.2, kl / self.target - 1))
        return KLController(
            self.beta * (1 + error * episodes / self.horizon), self.target, self.horizon
        )


def soft_bradley_terry(
    first_B: Tensor, second_B: Tensor, p_first_B: Tensor, weight_B: Tensor | None = None
) -> Tensor:
    """-p log sigma(r1 - r2) - (1 - p) log sigma(r2 - r1), mean over pairs: cross-entropy with a
    soft label.

    Args:
        weight_B: of each pair in the mean; None: all count the same.
    """
    margin_B = first_B - second_B
    logsigmoid = torch.nn.functional.logsigmoid
    loss_B = -(p_first_B * logsigmoid(margin_B) + (1 - p_first_B) * logsigmoid(-margin_B))
    return loss_B.mean() if weight_B is None else (weight_B * loss_B).sum() / weight_B.sum()

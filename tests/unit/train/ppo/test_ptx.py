"""Fine-tuning text in PPO's loss: micro-batches, and text that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ppo_toys import CONFIG, PROMPTS, fresh_actor, fresh_trainer, rollout_of, train, with_settings

from cai.errors import TrainError
from cai.modeling.tokenization import load_renderer
from cai.train.ppo import ptx
from cai.train.ppo.ptx import ptx_losses


def test_micro_batches_of_texts_do_not_change_the_loss(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Micro-batches of two texts, or all five at once: the same loss and gradient, to rounding."""
    renderer, sizes, results = load_renderer(tiny_model), [], []
    texts = [
        rollout_of([65 + i] * (i + 1) + [renderer.eos_token_id], renderer, PROMPTS[i])
        for i in range(5)
    ]
    forward = ptx.response_hidden
    monkeypatch.setattr(
        ptx,
        "response_hidden",
        lambda model, batch, *more: (sizes.append(len(batch)), forward(model, batch, *more))[1],
    )
    for rows in (2, 64):
        actor = fresh_actor(tiny_model)
        loss = 0.0
        for part in ptx_losses(actor.policy, texts, rows):
            part.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        results.append(
            (loss, [p.grad.clone() for p in actor.trainable_parameters() if p.grad is not None])
        )
    assert sizes == [2, 2, 1, 5]
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
    for accumulated, at_once in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(accumulated, at_once, atol=1e-5, rtol=1e-4)


def test_missing_texts_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="there is no fine-tuning text"):
        train(fresh_trainer(tiny_model, with_settings(CONFIG, ptx={"coef": 1.0})), tmp_path)

"""A preference model from comparisons to a folder: trained, measured on prompts it has not seen, normalised, with a card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cai import store
from cai.errors import TrainError
from cai.evals.stats import estimate
from cai.modeling.loading import load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.progress import Progress
from cai.records import Score
from cai.report.cards import preference_card
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.store import Manifest
from cai.train.preference import Agreement, Comparison, RewardConfig, evaluate, split_by_prompt, train


def fresh_model(where: str, config: RewardConfig, seed: int) -> PreferenceModel:
    """An untrained preference model on the weights in `where`; the seed decides adapter and head."""
    import torch

    torch.manual_seed(seed)
    return PreferenceModel(with_adapter(load_model(where), ADAPTER, config.rank, config.layers), load_renderer(where))


def fit_preference_model(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    config: RewardConfig,
    out: Path,
    *,
    seed: int,
    progress: Progress,
    labels: Manifest | None,
    name: str,
    base: str,
    normalize_over: Sequence[list[int]] | None = None,
) -> tuple[int, list[Score]]:
    """Train `model`, and publish it as the folder `out`; returns (comparisons held out, their scores).

    Args:
        labels, name, base: manifest of the labels, what to call the model, and what it is built on: for the card.
        normalize_over: replies whose scores get mean 0 and variance 1; None: all that were compared.

    Where the comparisons are from several sources, each is measured on its own too.

    Raises:
        TrainError: too little to train on, or to decide by.
    """
    learn, held = split_by_prompt(comparisons, config.held_out, seed)
    deciding: list[Comparison] = []
    if config.patience is not None:
        held, deciding = split_by_prompt(held, 0.5, seed)
        if not deciding:
            raise TrainError("reward: reward.patience needs two held-out prompts or more: raise reward.held_out or pair.prompts")
    loss = train(model, learn, config, seed=seed, progress=progress, deciding=deciding)
    measured = evaluate(model, held)
    scores = agreement_and_loss("reward", measured)
    names = sorted({c.source for c in comparisons})
    by_source = {name: agreement_and_loss(f"reward.{name}", [m for m in measured if m.source == name]) for name in names}
    every = [row for c in comparisons for row in (c.first, c.second)]
    model.normalize(model.score(every if normalize_over is None else normalize_over))
    with store.atomic_directory(out) as folder:
        model.save(folder)
        told: dict[str, object] = {"train_loss": loss, "train_pairs": len(learn)}
        told |= {score.metric.removeprefix("reward."): score.model_dump() for score in scores}
        told |= (
            {"by_source": {name: [score.model_dump() for score in own] for name, own in by_source.items()}}
            if len(names) > 1
            else {}
        )
        (folder / "metrics.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        over = "all replies that were compared" if normalize_over is None else "that model's replies"
        card = preference_card(config.labels, len(learn), scores, labels, name, base, over)
        (folder / "README.md").write_text(card.content, encoding="utf-8")
    return len(held), scores


def agreement_and_loss(name: str, measured: Sequence[Agreement]) -> list[Score]:
    """`NAME.agreement` with the labels and `NAME.log_loss` in nats, errors by prompt."""
    prompts = [m.prompt for m in measured]
    agreement = estimate(f"{name}.agreement", "reward", [m.agrees for m in measured], prompts, proportion=True)
    return [agreement, estimate(f"{name}.log_loss", "reward", [m.log_loss for m in measured], prompts)]

"""A preference model from comparisons to a folder: trained, measured on held-out prompts,
normalized, with a card.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cai import store
from cai.data.filters import prompt_key
from cai.errors import StoreError, TrainError
from cai.modeling.activation_checkpointing import checkpoint_blocks
from cai.modeling.loading import load_frozen, load_model
from cai.modeling.lora import with_adapter
from cai.modeling.tokenization import load_renderer
from cai.progress import Progress
from cai.records import Chat, Pair, Preference, Prompt, Score
from cai.report.cards import preference_card
from cai.reward.preference_model import ADAPTER, PreferenceModel
from cai.statistics.estimates import estimate
from cai.store import Manifest
from cai.train.agreement import Agreement, evaluate, shared_scores
from cai.train.comparison import Comparison
from cai.train.distributed import rank, world_size, written_by_first
from cai.train.preference import RewardConfig, split_by_prompt, train
from cai.train.sharding import freeze_below, full_weights, is_sharded, shard_model


@dataclass(frozen=True)
class CardFacts:
    """What the model's card says of its origin."""

    name: str
    base: str
    """The model it is built on."""
    labels: Manifest | None
    """Of the labels it was trained on."""
    normalized_over: str = "all replies that were compared"


def fresh_model(weights: str, config: RewardConfig, seed: int) -> PreferenceModel:
    """An untrained preference model on `weights`; the seed decides adapter and head.

    Processes that torchrun started call it together where `config.shard` is on.
    """
    import torch

    torch.manual_seed(seed)
    lora = config.mode == "lora"
    model = load_frozen(weights) if lora else load_model(weights)
    if config.gradient_checkpointing:
        checkpoint_blocks(model, config.num_trainable_layers)
    if lora:
        adapted = with_adapter(model, ADAPTER, config.lora_rank, config.num_trainable_layers)
        return PreferenceModel(adapted, load_renderer(weights))
    freeze_below(model, config.num_trainable_layers)
    if config.shard and world_size() > 1:
        shard_model(model)
    return PreferenceModel(model, load_renderer(weights))


def make_comparison(
    model: PreferenceModel, chat: Chat, replies: tuple[str, str], p_first: float, source: str = ""
) -> Comparison:
    """The token rows of two replies to `chat`, with their label.

    Args:
        replies: first and second.
        source: where the label comes from.
    """
    first, second = replies
    prompt = prompt_key(Prompt(chat=chat))
    return Comparison(prompt, model.rows(chat, first), model.rows(chat, second), p_first, source)


def fits_window(model: PreferenceModel, comparison: Comparison) -> bool:
    """Whether the model takes both replies with their prompt.

    A longer row would be scored at positions that the model was never trained on.
    """
    return max(len(comparison.first), len(comparison.second)) <= model.window


def within_window(
    model: PreferenceModel, comparisons: Sequence[Comparison]
) -> tuple[list[Comparison], int]:
    """(comparisons whose rows the model takes, number of the others).

    Raises:
        TrainError: there are comparisons, and none is left.
    """
    kept = [comparison for comparison in comparisons if fits_window(model, comparison)]
    if comparisons and not kept:
        raise TrainError(
            f"reward: none of {len(comparisons)} pairs fits the model's window of {model.window} "
            "tokens with its prompt: take a model with a longer one, or shorter texts"
        )
    return kept, len(comparisons) - len(kept)


def labelled_comparisons(
    model: PreferenceModel,
    pairs: Sequence[Pair],
    preferences: Sequence[Preference],
    source: str = "",
) -> list[Comparison]:
    """The pairs that have a label, in the order of the labels; unscored ones are left out.

    Raises:
        StoreError: a label is about none of the pairs.
    """
    pair_by_id = {pair.id: pair for pair in pairs}
    comparisons = []
    for preference in preferences:
        if preference.p_first is None:
            continue
        pair = pair_by_id.get(preference.source)
        if pair is None:
            raise StoreError(
                f"preferences: a label for pair {preference.source}, which is not among the pairs"
            )
        replies = (pair.first, pair.second)
        comparisons.append(make_comparison(model, pair.chat, replies, preference.p_first, source))
    return comparisons


def fit_preference_model(
    model: PreferenceModel,
    comparisons: Sequence[Comparison],
    config: RewardConfig,
    out: Path,
    *,
    seed: int,
    progress: Progress,
    facts: CardFacts,
    normalize_over: Sequence[list[int]] | None = None,
) -> tuple[int, list[Score]]:
    """Train `model`, and publish it as the folder `out`.

    Comparisons that do not fit the model's window are left out, and counted as `too_long_pairs` in
    the folder's metrics. Processes that torchrun started call it together, and the first one
    writes. After a kill the next call resumes from the last checkpoint, also with another number
    of processes, unless the caller removed what the kill left.

    Args:
        normalize_over: token ids of replies whose scores get mean 0 and variance 1; None: all that
            were compared.

    Returns:
        The number of held-out comparisons, and their scores. Where comparisons are from several
        sources, the folder's metrics have each source on its own too.

    Raises:
        TrainError: too little to train on, or to decide by.
    """
    comparisons, too_long = within_window(model, comparisons)
    train_set, held_out = split_by_prompt(comparisons, config.held_out, seed)
    deciding: list[Comparison] = []
    if config.patience is not None:
        held_out, deciding = split_by_prompt(held_out, 0.5, seed)
        if not deciding:
            raise TrainError(
                "reward: reward.patience needs two held-out prompts or more:"
                " raise reward.held_out or pair.prompts"
            )
    partial = store.partial_path(out) if rank() else store.open_partial(out)
    loss = train(
        model,
        train_set,
        config,
        seed=seed,
        progress=progress,
        deciding=deciding,
        checkpoints=partial / store.CHECKPOINTS,
    )
    agreements = evaluate(model, held_out)
    scores = agreement_and_loss("reward", agreements)
    if normalize_over is None:
        normalize_over = [row for c in comparisons for row in (c.first, c.second)]
    fitting = [row for row in normalize_over if len(row) <= model.window]
    model.normalize(shared_scores(model, fitting))
    metrics: dict[str, object] = {"train_loss": loss, "train_pairs": len(train_set)}
    metrics["too_long_pairs"] = too_long
    metrics |= {score.metric.removeprefix("reward."): score.model_dump() for score in scores}
    metrics |= _by_source(comparisons, agreements)
    card = preference_card(
        config.mode,
        config.labels,
        len(train_set),
        scores,
        facts.labels,
        facts.name,
        facts.base,
        facts.normalized_over,
    )
    text = json.dumps(metrics, indent=2) + "\n"
    base = model.plain_base
    weights = full_weights(base) if is_sharded(base) else None
    with written_by_first(out) as folder:
        if rank() == 0:
            model.save(folder, None if facts.labels is not None else facts.base, weights)
            (folder / "metrics.json").write_text(text, encoding="utf-8")
            (folder / "README.md").write_text(card.content, encoding="utf-8")
    return len(held_out), scores


def _by_source(
    comparisons: Sequence[Comparison], agreements: Sequence[Agreement]
) -> dict[str, object]:
    """Scores of each source of comparisons, where there are several."""
    sources = sorted({c.source for c in comparisons})
    if len(sources) < 2:
        return {}
    scores = {
        source: agreement_and_loss(
            f"reward.{source}", [a for a in agreements if a.source == source]
        )
        for source in sources
    }
    return {
        "by_source": {source: [s.model_dump() for s in rows] for source, rows in scores.items()}
    }


def agreement_and_loss(name: str, agreements: Sequence[Agreement]) -> list[Score]:
    """`NAME.agreement` with the labels and `NAME.log_loss` in nats, errors by prompt."""
    prompts = [a.prompt for a in agreements]
    agreement = estimate(
        f"{name}.agreement", "reward", [a.agrees for a in agreements], prompts, proportion=True
    )
    return [
        agreement,
        estimate(f"{name}.log_loss", "reward", [a.log_loss for a in agreements], prompts),
    ]

"""Stages that train: SFT, preference model, PPO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from cai import store, templates
from cai.artifacts import (
    PAIRS,
    POLICY,
    PREFERENCES,
    PROMPTS,
    REVISIONS,
    REWARD,
    SFT,
    TENSORBOARD,
    VALIDATION,
)
from cai.data.preferences import clean_labelled_pairs, labelled_pairs
from cai.errors import ConfigError, StoreError
from cai.modeling.model_files import local_model_name, resolve_model_path, training_weights
from cai.pipeline.context import RunContext, hygiene_provenance, load_rows
from cai.pipeline.judge_audits import warn_before_ppo
from cai.pipeline.staleness import source_of
from cai.records import Pair, Preference, Prompt
from cai.seeds import rng
from cai.store import digest

if TYPE_CHECKING:
    from cai.modeling.tokenization import Renderer
    from cai.reward.preference_model import PreferenceModel
    from cai.train.comparison import Comparison
    from cai.train.ppo.config import PPOConfig
    from cai.train.ppo.ptx import PtxText
    from cai.train.preference import RewardConfig
    from cai.train.sft_config import SFTConfig

ConfigT = TypeVar("ConfigT", "SFTConfig", "RewardConfig", "PPOConfig")
RUN_LABELS = "this run"
"""Source of a comparison that the run itself labelled; others are named by their file of
`preferences`.
"""


def sft(ctx: RunContext) -> None:
    """20-sft/: the model fine-tuned on the final replies that the gate let through. Every process
    of a torchrun runs it.
    """
    from cai.pipeline.sft_data import extra_provenance, row_counts_line, sft_rows
    from cai.train.distributed import rank
    from cai.train.sft import sft as train_sft
    from cai.train.sft_rows import examples

    run, out = ctx.run, ctx.path(SFT)
    weights = local_model_name(run.model)
    if weights is None:
        raise ConfigError(
            f"model: {run.model}: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID"
        )
    rules = hygiene_provenance(ctx.resolved, run.hygiene.for_training_rows)
    rules |= extra_provenance(ctx)
    inputs = [REVISIONS, *([PROMPTS] if run.sft.weights else [])]

    def begin() -> bool:
        fingerprint = ctx.lm(run.model).fingerprint
        config = _without_hardware(run.sft)
        return ctx.begin(out, "sft", ctx.provenance(config, inputs, model=fingerprint, **rules))

    if _finished_already(begin):
        return
    rows, changes = sft_rows(ctx)
    if changes and rank() == 0:
        ctx.notify(row_counts_line(len(rows), changes, run.sft.cut_replies != "drop"))
    counts = train_sft(
        resolve_model_path(weights),
        examples(rows, run.sft),
        run.sft,
        out,
        seed=ctx.seed,
        progress=ctx.progress("sft"),
    )
    if rank() == 0:
        store.finish_artifact(out, **counts, **changes)


def _without_hardware(config: ConfigT) -> ConfigT:
    """The settings without those of the computer that they run on: a run may move to another."""
    return config.model_copy(update={"shard": False, "gradient_checkpointing": False})


def _finished_already(begin: Callable[[], bool]) -> bool:
    """What `begin` says in the first process, in all of them."""
    from cai.train.distributed import broadcast_flag, rank

    return broadcast_flag(rank() == 0 and begin())


def reward(ctx: RunContext) -> None:
    """50-reward/: the preference model, normalized over the fine-tuned model's replies. Every
    process of a torchrun runs it.
    """
    from cai.pipeline.preference_model import (
        CardFacts,
        fit_preference_model,
        fresh_model,
        labelled_comparisons,
        within_window,
    )
    from cai.train.cross_validation import mix_pairs
    from cai.train.distributed import rank

    if ctx.run.reward_model is not None:
        from cai.pipeline.published_reward import scale_published_model

        scale_published_model(ctx, ctx.run.reward_model)
        return
    run, out, config = ctx.run, ctx.path(REWARD), ctx.run.reward
    files = dict(zip(run.preferences, ctx.resolved.preferences, strict=True))
    provenance = {f"preferences {name}": store.file_digest(path) for name, path in files.items()}
    inputs = [SFT, PAIRS, PREFERENCES]
    if files:
        provenance |= hygiene_provenance(ctx.resolved, run.hygiene.for_training_rows)
        inputs += [path.name for path in ctx.unseen_prompts()]

    def begin() -> bool:
        settings = _without_hardware(config).model_copy(update={"save_every": 1})
        return ctx.begin(out, "reward", ctx.provenance(settings, inputs, **provenance))

    if _finished_already(begin):
        return
    model = fresh_model(str(ctx.path(SFT)), config, ctx.seed)
    pairs: dict[str, Pair] = {pair.id: pair for pair in load_rows(ctx.path(PAIRS), Pair)}
    preferences: list[Preference] = load_rows(ctx.path(PREFERENCES), Preference)
    for preference in preferences:
        source_of(preference, pairs, ctx.path(PREFERENCES), PAIRS)
    labelled = labelled_comparisons(model, list(pairs.values()), preferences, RUN_LABELS)
    run_comparisons, too_long = within_window(model, labelled)
    others, dropped = _other_comparisons(ctx, model)
    comparisons = mix_pairs(
        run_comparisons,
        others,
        config.label_share,
        lambda c: rng(ctx.seed, "reward", "mix", c.prompt, c.first).random(),
    )
    num_held_out, _ = fit_preference_model(
        model,
        comparisons,
        config,
        out,
        seed=ctx.seed,
        progress=ctx.progress("reward"),
        facts=CardFacts(
            name=ctx.constitution.name,
            base="the fine-tuned model of the same run (`../20-sft`)",
            labels=store.read_manifest(ctx.path(PREFERENCES)),
            normalized_over=(
                f"the replies of `{run.pair.subject}`"
                if run.pair.subject
                else "that model's replies"
            ),
        ),
        normalize_over=[row for c in run_comparisons for row in (c.first, c.second)],
    )
    if rank():
        return
    counts = {"pairs": len(comparisons), "held_out": num_held_out}
    if too_long:
        counts["too_long"] = too_long
    if files:
        counts["of others"] = sum(c.source != RUN_LABELS for c in comparisons)
        counts |= {f"others' {reason}": n for reason, n in dropped.items()}
    store.finish_artifact(out, **counts)


def _other_comparisons(
    ctx: RunContext, model: PreferenceModel
) -> tuple[list[Comparison], Counter[str]]:
    """The pairs of the run's `preferences` files that hygiene lets through, and what it dropped, by
    reason.

    Raises:
        StoreError: files are given, and none of their pairs is left.
    """
    from cai.pipeline.preference_model import make_comparison, within_window

    run = ctx.run
    against = [*ctx.unseen_prompts(), *ctx.resolved.against]
    comparisons: list[Comparison] = []
    dropped: Counter[str] = Counter()
    for name, path in zip(run.preferences, ctx.resolved.preferences, strict=True):
        rows, reasons = clean_labelled_pairs(labelled_pairs(path), run.hygiene, against)
        comparisons += [
            make_comparison(model, row.prompt.chat, (row.first, row.second), row.p_first, name)
            for row in rows
        ]
        dropped += reasons
    comparisons, too_long = within_window(model, comparisons)
    if too_long:
        dropped["too_long"] = too_long
    if run.preferences and not comparisons:
        reasons_text = ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "no verdict"
        raise StoreError(f"{', '.join(run.preferences)}: no pair is left ({reasons_text})")
    return comparisons, dropped


def ppo(ctx: RunContext) -> None:
    """60-policy/: the fine-tuned model after PPO on the run's reward. Every process of a torchrun
    runs it.
    """
    import torch

    from cai.modeling.loading import window_of
    from cai.modeling.tokenization import load_renderer
    from cai.pipeline.reward import load_reward
    from cai.reward.preference_model import PreferenceModel
    from cai.train.distributed import rank
    from cai.train.ppo.actor import build_actor
    from cai.train.ppo.rollout import RewardTable, Rollout
    from cai.train.ppo.save import save_policy
    from cai.train.ppo.trainer import PPOTrainer

    run, out, config = ctx.run, ctx.path(POLICY), ctx.run.ppo
    if _finished_already(lambda: ctx.begin(out, "ppo", _ppo_provenance(ctx))):
        return
    if rank() == 0:
        warn_before_ppo(ctx)
    weights = str(ctx.path(SFT))
    torch.manual_seed(ctx.seed)
    trains_model = bool(run.reward_weights.pm) and run.reward_model is None
    reference = training_weights(run.model) if config.reference == "base" else None
    adapted = trains_model and run.reward.mode == "lora"
    actor, base = build_actor(config, weights, run.reward if adapted else None, reference)
    reward = load_reward(ctx, base)
    preference_model = reward.scorers.preference_model
    if config.critic == "reward" and isinstance(preference_model, PreferenceModel):
        actor.critic.init_from_preference_model(preference_model, run.reward_weights.pm)

    def reward_fn(rollouts: Sequence[Rollout]) -> RewardTable:
        return reward(
            [rollout.prompt for rollout in rollouts],
            [rollout.text for rollout in rollouts],
            [rollout.finished for rollout in rollouts],
        )

    renderer = load_renderer(weights)
    trainer = PPOTrainer(actor, renderer, reward_fn, config, ctx.seed)
    texts = _ptx_texts(ctx, renderer, window_of(actor.module.model.config))
    folder = store.open_partial(out)
    prompts: list[Prompt] = load_rows(ctx.path(PROMPTS), Prompt)
    validation: list[Prompt] = load_rows(ctx.path(VALIDATION), Prompt) if run.validation else []
    history = trainer.train(prompts, folder, texts, _on_update(ctx), validation)
    save_policy(actor, renderer, weights, out)
    if rank() == 0:
        episodes = sum(int(row["episodes"]) for row in history)
        store.finish_artifact(out, updates=len(history), episodes=episodes, **trainer.left_out)


def _ptx_texts(ctx: RunContext, renderer: Renderer, window: int) -> list[PtxText]:
    """What `ppo.ptx` mixes in: chunks of its files, or else the run's own fine-tuning text."""
    from cai.pipeline.sft_data import sft_rows
    from cai.train.distributed import rank
    from cai.train.ppo.ptx import pretraining_chunks
    from cai.train.sft import completion_ids
    from cai.train.sft_rows import examples

    config = ctx.run.ppo
    if not config.ptx.coef:
        return []
    if config.ptx.files:
        length = min(config.ptx.max_length, window)
        return pretraining_chunks(ctx.resolved.ptx_files, renderer, length, ctx.seed)
    if config.preset == "instructgpt" and rank() == 0:
        ctx.notify(
            f"ppo.preset: instructgpt: its ptx.coef is meant for pretraining text, and here weighs "
            f"the run's own revisions by {config.ptx.coef:g}: name text in ppo.ptx.files, or set "
            "ppo.ptx.coef"
        )
    rows, _ = sft_rows(ctx)
    return [
        (renderer.prompt_ids(example.chat), completion_ids(renderer, example))
        for example in examples(rows, ctx.run.sft)
    ]


def _ppo_provenance(ctx: RunContext) -> dict[str, str]:
    from cai.modeling.loading import fingerprint
    from cai.pipeline.sft_data import extra_provenance

    run = ctx.run
    inputs = [PROMPTS, SFT, REWARD]
    if run.validation:
        inputs.append(VALIDATION)
    mixes_replies = run.ppo.ptx.coef > 0 and not run.ppo.ptx.files
    if mixes_replies:
        inputs.append(REVISIONS)
    models = extra_provenance(ctx) if mixes_replies else {}
    files = zip(run.ppo.ptx.files, ctx.resolved.ptx_files, strict=True)
    models |= {f"ptx {name}": store.file_digest(path) for name, path in files}
    if run.reward_weights.direct:
        models["judge"] = ctx.lm(run.judge or run.model).fingerprint
        models["templates"] = templates.templates_digest()
        models |= ctx.answer_settings(run.judge or run.model)
    if run.ppo.critic_model is not None:
        models["critic"] = fingerprint(training_weights(run.ppo.critic_model))
    if run.ppo.reference == "base":
        models["reference"] = fingerprint(training_weights(run.model))
    settings = _without_hardware(run.ppo).model_copy(update={"save_every": 1})
    weights = digest(run.reward_weights)
    return ctx.provenance(settings, inputs, ("rubric",), reward_weights=weights, **models)


def _on_update(ctx: RunContext) -> Callable[[int, Mapping[str, Any]], None]:
    """Progress bar and the tracker that the run names."""
    from cai.train.distributed import rank
    from cai.train.tracking import tracker

    track = tracker(None if rank() else ctx.run.report_to, ctx.path(TENSORBOARD), ctx.run.name)
    progress, num_updates = ctx.progress("ppo"), ctx.run.ppo.num_updates
    progress(0, num_updates)

    def on_update(update: int, metrics: Mapping[str, Any]) -> None:
        track(update, metrics)
        progress(update + 1, num_updates)

    return on_update

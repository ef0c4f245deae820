"""The stages of a run in order: each reads files, calls one function of its package, and leaves one artefact with a manifest."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence

from cai import store, templates
from cai.artifacts import (
    EVAL,
    HELD_OUT,
    PAIRS,
    POLICY,
    PREFERENCES,
    PROMPTS,
    REPLIES,
    REVISIONS,
    REWARD,
    SCORES,
    SFT,
    SUBJECTS,
    TENSORBOARD,
)
from cai.data.preferences import clean_labelled_pairs, labelled_pairs
from cai.data.split import clean_training, subsample
from cai.errors import ConfigError, StoreError
from cai.evals.refusal import comparisons, refusal_scores
from cai.evals.replies import item_of, items, replier
from cai.generate.diversity import monitors
from cai.generate.filters import all_of, not_degenerate
from cai.generate.label import labeller
from cai.generate.pair import pair_items, paired_item, pairer
from cai.generate.revise import revise_items, revised_item, reviser
from cai.modeling.model_files import local_weights
from cai.pipeline.context import RunContext, hygiene_provenance, read_rows, read_run_prompts
from cai.pipeline.staleness import LABEL_READS, abouts_in, preference_stands_in, revise_reads, revision_stands_in
from cai.records import Chat, EvalReply, Message, Pair, Preference, Prompt, PromptDraw, Revision
from cai.report.html import write_report
from cai.rubric import gate_of
from cai.store import digest

OWN = "this run"
"""Where a comparison is from that no file of `preferences` gave."""

# ---- stages ----


def prompts(ctx: RunContext) -> None:
    """00-prompts.jsonl for training, 01-held-out.jsonl for evaluation."""
    run = ctx.run
    files = {f"input {name}": store.file_digest(path) for name, path in zip(run.prompts, ctx.loaded.prompts, strict=True)}
    made = {"held_out": f"{run.held_out} by {run.split_by}", "seed": str(run.seed), **files}
    made |= hygiene_provenance(ctx.loaded, run.hygiene)
    train, held, counts = read_run_prompts(ctx.loaded)
    if not train or not held:
        apart = f", each {run.split_by} on one side" if any(getattr(p, run.split_by) for p in (*train, *held)) else ""
        raise StoreError(f"{', '.join(run.prompts)}: too few prompts to keep a share of {run.held_out} for evaluation{apart}")
    out = ctx.path(PROMPTS)
    if store.begin(out, "prompts", made):  # only now: a file with a mistake in it must not lay claim to the folder
        return
    store.atomic_write(ctx.path(HELD_OUT), "".join(p.line() + "\n" for p in held))
    store.atomic_write(out, "".join(p.line() + "\n" for p in train))
    store.finish(out, train=len(train), held_out=len(held), **{k: n for k, n in counts.items() if k != "kept"})


def revise(ctx: RunContext) -> None:
    """10-revisions.jsonl: critiques and revisions of the model's own replies."""
    config, author, out = ctx.run.revise, ctx.lm(ctx.run.model), ctx.path(REVISIONS)
    made = ctx.provenance(
        config, [PROMPTS], revise_reads(config), model=author.fingerprint, templates=templates.templates_digest()
    )
    if ctx.begin_or_reuse(out, "revise", made, Revision, revision_stands_in(ctx)):
        return
    step = reviser(ctx.constitution, author, config, all_of(not_degenerate, gate_of(ctx.rubric)), ctx.seed)
    rows = revise_items(subsample(read_rows(ctx.path(PROMPTS), Prompt), config.prompts, ctx.seed, "revise"), config)
    ctx.map_rows(author, out, rows, step, Revision, "revise", source=revised_item)
    done: list[Revision] = read_rows(out, Revision)
    rewritten = [r.final for r in done if r.final is not None and r.chosen_round is not None]
    seen = monitors(rewritten)._asdict()
    counts = {"rows": len(done), "kept": sum(r.final is not None for r in done), "revised": len(rewritten)}
    store.finish(
        out, **counts, **{f"revised {name}": value if value is None else round(value, 3) for name, value in seen.items()}
    )


def sft(ctx: RunContext) -> None:
    """20-sft/: the model fine-tuned on what the gate let through."""
    from cai.modeling.model_files import locate
    from cai.train.sft import sft as train_sft

    run, out = ctx.run, ctx.path(SFT)
    where = _weights(run.model)
    rules = hygiene_provenance(ctx.loaded, run.hygiene.of_training_rows)
    if store.begin(out, "sft", ctx.provenance(run.sft, [REVISIONS], model=ctx.lm(run.model).fingerprint, **rules)):
        return
    revisions: list[Revision] = read_rows(ctx.path(REVISIONS), Revision)
    whole = [(*r.chat, Message(role="assistant", content=r.final)) for r in revisions if r.final is not None]
    chats, gone = clean_training(whole, run.hygiene, ctx.loaded.against)
    examples = [(chat[:-1], chat[-1].content) for chat in chats]
    counts = train_sft(locate(where), examples, run.sft, out, seed=ctx.seed, progress=ctx.progress("sft"))
    store.finish(out, **counts, **{reason: n for reason, n in gone.items() if reason != "kept"})


def _weights(spec: str) -> str:
    """The folder or id that training starts from."""
    weights = local_weights(spec)
    if weights is None:
        raise ConfigError(f"model: {spec}: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID")
    return weights


def pair(ctx: RunContext) -> None:
    """30-pairs.jsonl: replies of the fine-tuned model, two and two."""
    config, out = ctx.run.pair, ctx.path(PAIRS)
    if store.begin(out, "pair", ctx.provenance(config, [PROMPTS, SFT])):
        return
    subject = ctx.lm(f"local:{ctx.path(SFT)}")
    prompts = subsample(read_rows(ctx.path(PROMPTS), Prompt), config.prompts, ctx.seed, "pair")
    rows, per_prompt = pair_items(prompts, config, ctx.seed), config.per_prompt
    width = (
        subject.max_concurrency // config.replies or 1
    ) * per_prompt  # a prompt's pairs share replies: they stay in one window
    ctx.map_rows(subject, out, rows, pairer(subject, config, ctx.seed), Pair, "pair", max_concurrency=width, source=paired_item)
    store.finish(out, rows=len(rows))


def label(ctx: RunContext) -> None:
    """40-preferences.jsonl: which reply is better, by principle, as a probability."""
    run, out = ctx.run, ctx.path(PREFERENCES)
    judge = ctx.lm(run.judge or run.model)
    made = ctx.provenance(run.label, [PAIRS], LABEL_READS, judge=judge.fingerprint, templates=templates.templates_digest())
    if ctx.begin_or_reuse(out, "label", made, Preference, preference_stands_in(ctx)):
        return
    about = abouts_in(ctx)
    step = labeller(ctx.constitution, judge, run.label, ctx.seed, lambda pair: about.get(pair.source, (None, None)))
    pairs: list[Pair] = read_rows(ctx.path(PAIRS), Pair)
    ctx.map_rows(judge, out, pairs, step, Preference, "label")
    labels: list[Preference] = read_rows(out, Preference)
    store.finish(out, rows=len(labels), unscored=sum(x.p_first is None for x in labels))


def reward(ctx: RunContext) -> None:
    """50-reward/: the preference model, normalised over the fine-tuned model's replies."""
    from cai.pipeline.preference_model import fit_preference_model, fresh_model
    from cai.seeds import rng
    from cai.train.cross_validation import mix_pairs
    from cai.train.preference import Comparison

    run, out = ctx.run, ctx.path(REWARD)
    config, given = run.reward, dict(zip(run.preferences, ctx.loaded.preferences, strict=True))
    files = {f"preferences {name}": store.file_digest(path) for name, path in given.items()}
    if given:
        files |= hygiene_provenance(ctx.loaded, run.hygiene.of_training_rows)
    inputs = [SFT, PAIRS, PREFERENCES, *[HELD_OUT] * bool(given)]
    if store.begin(out, "reward", ctx.provenance(config, inputs, **files)):
        return
    model = fresh_model(str(ctx.path(SFT)), config, ctx.seed)
    pairs = {p.id: p for p in read_rows(ctx.path(PAIRS), Pair)}
    known = [x for x in read_rows(ctx.path(PREFERENCES), Preference) if x.p_first is not None]

    def compared(chat: Chat, first: str, second: str, p: float, source: str) -> Comparison:
        return Comparison(Prompt(chat=chat).id, model.rows(chat, first), model.rows(chat, second), p, source)

    own = [compared(p.chat, p.first, p.second, x.p_first, OWN) for x in known for p in [pairs[x.source]]]
    others, gone = [], Counter[str]()
    for name, path in given.items():
        rows, reasons = clean_labelled_pairs(labelled_pairs(path), run.hygiene, [ctx.path(HELD_OUT), *ctx.loaded.against])
        others += [compared(row.prompt.chat, row.first, row.second, row.p_first, name) for row in rows]
        gone += reasons
    if given and not others:
        raise StoreError(
            f"{', '.join(given)}: no pair is left ({', '.join(f'{n} {why}' for why, n in gone.items()) or 'no verdict'})"
        )
    comparisons = mix_pairs(own, others, config.own_share, lambda c: rng(ctx.seed, "reward", "mix", c.prompt, c.first).random())
    held, _ = fit_preference_model(
        model,
        comparisons,
        config,
        out,
        seed=ctx.seed,
        progress=ctx.progress("reward"),
        labels=store.read_manifest(ctx.path(PREFERENCES)),
        name=ctx.constitution.name,
        base="the fine-tuned model of the same run (`../20-sft`)",
        normalize_over=[row for c in own for row in (c.first, c.second)],
    )
    others_used = sum(c.source != OWN for c in comparisons)
    told_of_others = {"of others": others_used, **{f"others' {why}": n for why, n in gone.items()}} if given else {}
    store.finish(out, pairs=len(comparisons), held_out=held, **told_of_others)


def ppo(ctx: RunContext) -> None:
    """60-policy/: the fine-tuned model after PPO on preference model and rubric. Every process of a torchrun walks it."""
    import torch

    from cai.modeling.loading import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.precision import matmul_dtype
    from cai.modeling.tokenization import load_renderer
    from cai.reward.composite import combine
    from cai.reward.direct_rlaif import rater
    from cai.reward.preference_model import ADAPTER, PreferenceModel
    from cai.train.distributed import broadcast_flag, rank, world_size
    from cai.train.ppo import trainer as training
    from cai.train.ppo.actor import POLICY as LEARNT
    from cai.train.ppo.actor import Actor, FullActor, LoraActor
    from cai.train.ppo.rollout import RewardTable, Rollout
    from cai.train.tracking import tracker

    run, out, config = ctx.run, ctx.path(POLICY), ctx.run.ppo
    about = {"mix": digest(run.mix)}
    rate = None
    if run.mix.direct:
        lm = ctx.lm(run.judge or run.model)
        rate, about = rater(lm), about | {"judge": lm.fingerprint, "templates": templates.templates_digest()}
    inputs = [PROMPTS, SFT, REWARD, *[REVISIONS] * bool(config.ptx.coef)]
    if broadcast_flag(rank() == 0 and store.begin(out, "ppo", ctx.provenance(config, inputs, ("rubric",), **about)) is not None):
        return
    where = str(ctx.path(SFT))
    torch.manual_seed(ctx.seed)
    renderer, spread = load_renderer(where), config.shard and world_size() > 1  # one process alone has nothing to spread
    copy = load_model(where, matmul_dtype()) if spread or matmul_dtype() != torch.float32 else None
    if config.mode == "lora":
        base = with_adapter(load_model(where), LEARNT, config.rank, config.layers)
        actor: Actor = LoraActor(base, copy)
    else:
        reference = load_model(where)
        base = with_adapter(reference, ADAPTER, run.reward.rank, run.reward.layers) if run.mix.pm else reference
        actor = whole_actor = FullActor(load_model(where), base, copy, config.layers)
        if spread:
            whole_actor.shard()
    judge = PreferenceModel.load(base, renderer, ctx.path(REWARD)) if run.mix.pm else None
    if config.critic == "reward" and judge is not None:
        actor.critic.init_from_preference_model(judge, run.mix.pm)

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return combine([r.prompt for r in rollouts], [r.text for r in rollouts], judge, ctx.rubric, run.mix, rate)

    rows = read_rows(ctx.path(PROMPTS), Prompt)
    learnt: list[Revision] = read_rows(ctx.path(REVISIONS), Revision) if config.ptx.coef else []
    texts = [(renderer.prompt_ids(r.chat), renderer.reply_ids(r.final)) for r in learnt if r.final is not None]
    track = tracker(None if rank() else run.track, ctx.path(TENSORBOARD), run.name)
    it, told, folder = training.learner(actor, config), ctx.progress("ppo"), store.partial_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    history = training.ppo(it, renderer, rows, score, config, folder, seed=ctx.seed, progress=told, texts=texts, track=track)
    whole = load_model(where)
    actor.copy_weights_to(whole)
    if rank() == 0:
        with store.atomic_directory(out) as folder:
            whole.save_pretrained(folder)
            renderer.tokenizer.save_pretrained(folder)
        store.finish(out, updates=len(history), episodes=sum(int(row["episodes"]) for row in history))
        # three times the model's size; last, for a kill before this would need it, and a run of no update has none
        shutil.rmtree(out / "checkpoints", ignore_errors=True)


def evaluate(ctx: RunContext) -> None:
    """70-replies.jsonl and 70-scores.jsonl: base, SFT and policy on held-out prompts."""
    run, out = ctx.run, ctx.path(SCORES)
    made = ctx.provenance(run.eval, [HELD_OUT, SFT, REWARD, POLICY], ("rubric",), model=ctx.lm(run.model).fingerprint)
    if store.begin(out, "eval", made):
        return
    asked: list[PromptDraw] = items(
        subsample(read_rows(ctx.path(HELD_OUT), Prompt), run.eval.prompts, ctx.seed, "eval"), run.eval.draws
    )
    ctx.path(EVAL).mkdir(exist_ok=True)
    replies: list[EvalReply] = []
    for subject, folder in SUBJECTS.items():
        lm = ctx.lm(f"local:{ctx.path(folder)}" if folder else run.model)
        step, part = replier(subject, lm, ctx.rubric, run.eval, ctx.seed), ctx.path(EVAL) / f"{subject}.jsonl"
        ctx.map_rows(lm, part, asked, step, EvalReply, f"eval {subject}", source=item_of)
        replies += read_rows(part, EvalReply)
        del lm, step
        ctx.close_models()  # one subject in memory at a time
    read = {p.id for p in subsample([item.prompt for item in asked], run.eval.reward_prompts, ctx.seed, "reward")}
    rewards = iter(_rewarded(ctx, [r for r in replies if r.source in read]))
    measured = [next(rewards) if r.source in read else r for r in replies]
    store.atomic_write(ctx.path(REPLIES), "".join(r.line() + "\n" for r in measured))
    scores = refusal_scores(measured, seed=run.seed, rewarded=read) + comparisons(measured, seed=run.seed)
    store.atomic_write(out, "".join(s.line() + "\n" for s in scores))
    store.finish(out, replies=len(measured), scores=len(scores))


def _rewarded(ctx: RunContext, replies: Sequence[EvalReply]) -> list[EvalReply]:
    """The replies with their preference-model reward, and those of the policy with their log-ratio to the reference."""
    from cai.modeling.loading import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.tokenization import load_renderer
    from cai.reward.preference_model import ADAPTER, PreferenceModel
    from cai.train.ppo.rollout import text_logprobs

    run, sft_folder = ctx.run, str(ctx.path(SFT))
    renderer = load_renderer(sft_folder)
    reference = load_model(sft_folder)
    own = [(r.chat, r.response, r.finished) for r in replies if r.subject == "policy"]
    temperature = run.eval.temperature or 1.0
    told = ctx.progress("eval reward and kl")
    policy_logps = text_logprobs(load_model(str(ctx.path(POLICY))), renderer, own, temperature)
    told(1, 3)
    ratios = iter([a - b for a, b in zip(policy_logps, text_logprobs(reference, renderer, own, temperature), strict=True)])
    told(2, 3)
    judge = PreferenceModel.load(with_adapter(reference, ADAPTER, run.reward.rank, run.reward.layers), renderer, ctx.path(REWARD))
    rewards = judge.score([judge.rows(r.chat, r.response) for r in replies])
    told(3, 3)
    return [
        r.model_copy(update={"reward": reward, "kl": next(ratios) if r.subject == "policy" else None})
        for r, reward in zip(replies, rewards, strict=True)
    ]


def report(ctx: RunContext) -> None:
    """report.html, from the files alone."""
    write_report(ctx.loaded.folder)


RUN_STAGE: dict[str, Callable[[RunContext], None]] = {
    "prompts": prompts,
    "revise": revise,
    "sft": sft,
    "pair": pair,
    "label": label,
    "reward": reward,
    "ppo": ppo,
    "eval": evaluate,
    "report": report,
}

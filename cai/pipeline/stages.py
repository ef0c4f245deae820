"""The stages of a run in order: each reads files, calls one function of its package, and leaves one artefact with a manifest."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence

from cai import store, templates
from cai.data.preferences import clean_judged, judged_rows
from cai.data.split import clean_training, some
from cai.errors import ConfigError, StoreError
from cai.evals.refusal import comparisons, refusal_scores
from cai.evals.replies import item_of, items, replier
from cai.generate.diversity import monitors
from cai.generate.filters import every, readable
from cai.generate.label import labeller
from cai.generate.pair import pair_items, paired_item, pairer
from cai.generate.revise import revise_items, revised_item, reviser
from cai.pipeline.context import (
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
    Workshop,
    hygiene_made,
    read_run_prompts,
    rows_of,
)
from cai.pipeline.staleness import LABEL_READS, abouts_in, preference_stands_in, revise_reads, revision_stands_in
from cai.records import Chat, Item, Message, Pair, Preference, Prompt, Reply, Revision
from cai.report.html import write_report
from cai.rubric import gate_of
from cai.store import digest

OWN = "this run"
"""Where a comparison is from that no file of `preferences` gave."""

# ---- stages ----


def prompts(shop: Workshop) -> None:
    """00-prompts.jsonl for training, 01-held-out.jsonl for evaluation."""
    run = shop.loaded.run
    files = {f"input {name}": store.file_digest(path) for name, path in zip(run.prompts, shop.loaded.prompts, strict=True)}
    made = {"held_out": f"{run.held_out} by {run.split_by}", "seed": str(run.seed), **files}
    made |= hygiene_made(shop.loaded, run.hygiene)
    train, held, counts = read_run_prompts(shop.loaded)
    if not train or not held:
        apart = f", each {run.split_by} on one side" if any(getattr(p, run.split_by) for p in (*train, *held)) else ""
        raise StoreError(f"{', '.join(run.prompts)}: too few prompts to keep a share of {run.held_out} for evaluation{apart}")
    out = shop.path(PROMPTS)
    if store.begin(out, "prompts", made):  # only now: a file with a mistake in it must not lay claim to the folder
        return
    store.publish(shop.path(HELD_OUT), "".join(p.line() + "\n" for p in held))
    store.publish(out, "".join(p.line() + "\n" for p in train))
    store.finish(out, train=len(train), held_out=len(held), **{k: n for k, n in counts.items() if k != "kept"})


def revise(shop: Workshop) -> None:
    """10-revisions.jsonl: critiques and revisions of the model's own replies."""
    config, author, out = shop.loaded.run.revise, shop.lm(shop.loaded.run.model), shop.path(REVISIONS)
    made = shop.made(config, [PROMPTS], revise_reads(config), model=author.fingerprint, templates=templates.templates_digest())
    if shop.begin_rows(out, "revise", made, Revision, revision_stands_in(shop)):
        return
    step = reviser(shop.constitution, author, config, every(readable, gate_of(shop.rubric)), shop.seed)
    rows = revise_items(some(rows_of(shop.path(PROMPTS), Prompt), config.prompts, shop.seed, "revise"), config)
    shop.fill(author, out, rows, step, Revision, "revise", source=revised_item)
    done: list[Revision] = rows_of(out, Revision)
    rewritten = [r.final for r in done if r.final is not None and r.chosen_round is not None]
    seen = monitors(rewritten)._asdict()
    counts = {"rows": len(done), "kept": sum(r.final is not None for r in done), "revised": len(rewritten)}
    store.finish(
        out, **counts, **{f"revised {name}": value if value is None else round(value, 3) for name, value in seen.items()}
    )


def sft(shop: Workshop) -> None:
    """20-sft/: the model fine-tuned on what the gate let through."""
    from cai.modeling.model_files import locate
    from cai.train.sft import sft as train_sft

    run, out = shop.loaded.run, shop.path(SFT)
    where = _weights(run.model)
    rules = hygiene_made(shop.loaded, run.hygiene.of_training_rows)
    if store.begin(out, "sft", shop.made(run.sft, [REVISIONS], model=shop.lm(run.model).fingerprint, **rules)):
        return
    revisions: list[Revision] = rows_of(shop.path(REVISIONS), Revision)
    whole = [(*r.chat, Message(role="assistant", content=r.final)) for r in revisions if r.final is not None]
    chats, gone = clean_training(whole, run.hygiene, shop.loaded.against)
    examples = [(chat[:-1], chat[-1].content) for chat in chats]
    counts = train_sft(locate(where), examples, run.sft, out, seed=shop.seed, progress=shop.progress("sft"))
    store.finish(out, **counts, **{reason: n for reason, n in gone.items() if reason != "kept"})


def _weights(spec: str) -> str:
    """The folder or id that training starts from."""
    if spec.startswith("local:"):
        return spec.removeprefix("local:")
    if spec != "smollm2":
        raise ConfigError(f"model: {spec}: training needs weights: smollm2 or local:FOLDER_OR_HUB_ID")
    return spec


def pair(shop: Workshop) -> None:
    """30-pairs.jsonl: replies of the fine-tuned model, two and two."""
    config, out = shop.loaded.run.pair, shop.path(PAIRS)
    if store.begin(out, "pair", shop.made(config, [PROMPTS, SFT])):
        return
    subject = shop.lm(f"local:{shop.path(SFT)}")
    prompts = some(rows_of(shop.path(PROMPTS), Prompt), config.prompts, shop.seed, "pair")
    rows, per_prompt = pair_items(prompts, config, shop.seed), config.per_prompt
    width = (subject.width // config.replies or 1) * per_prompt  # a prompt's pairs share replies: they stay in one window
    shop.fill(subject, out, rows, pairer(subject, config, shop.seed), Pair, "pair", width=width, source=paired_item)
    store.finish(out, rows=len(rows))


def label(shop: Workshop) -> None:
    """40-preferences.jsonl: which reply is better, by principle, as a probability."""
    run, out = shop.loaded.run, shop.path(PREFERENCES)
    judge = shop.lm(run.judge or run.model)
    made = shop.made(run.label, [PAIRS], LABEL_READS, judge=judge.fingerprint, templates=templates.templates_digest())
    if shop.begin_rows(out, "label", made, Preference, preference_stands_in(shop)):
        return
    about = abouts_in(shop)
    step = labeller(shop.constitution, judge, run.label, shop.seed, lambda pair: about.get(pair.source, (None, None)))
    pairs: list[Pair] = rows_of(shop.path(PAIRS), Pair)
    shop.fill(judge, out, pairs, step, Preference, "label")
    labels: list[Preference] = rows_of(out, Preference)
    store.finish(out, rows=len(labels), unscored=sum(x.p_first is None for x in labels))


def reward(shop: Workshop) -> None:
    """50-reward/: the preference model, normalised over the fine-tuned model's replies."""
    from cai.pipeline.preference_model import fit_preference_model, fresh_model
    from cai.seeds import rng
    from cai.train.cross_validation import mixed
    from cai.train.preference import Comparison

    run, out = shop.loaded.run, shop.path(REWARD)
    config, given = run.reward, dict(zip(run.preferences, shop.loaded.preferences, strict=True))
    files = {f"preferences {name}": store.file_digest(path) for name, path in given.items()}
    if given:
        files |= hygiene_made(shop.loaded, run.hygiene.of_training_rows)
    inputs = [SFT, PAIRS, PREFERENCES, *[HELD_OUT] * bool(given)]
    if store.begin(out, "reward", shop.made(config, inputs, **files)):
        return
    model = fresh_model(str(shop.path(SFT)), config, shop.seed)
    pairs = {p.id: p for p in rows_of(shop.path(PAIRS), Pair)}
    known = [x for x in rows_of(shop.path(PREFERENCES), Preference) if x.p_first is not None]

    def compared(chat: Chat, first: str, second: str, p: float, source: str) -> Comparison:
        return Comparison(Prompt(chat=chat).id, model.rows(chat, first), model.rows(chat, second), p, source)

    own = [compared(p.chat, p.first, p.second, x.p_first, OWN) for x in known for p in [pairs[x.source]]]
    others, gone = [], Counter[str]()
    for name, path in given.items():
        rows, reasons = clean_judged(judged_rows(path), run.hygiene, [shop.path(HELD_OUT), *shop.loaded.against])
        others += [compared(row.prompt.chat, row.first, row.second, row.p_first, name) for row in rows]
        gone += reasons
    if given and not others:
        raise StoreError(
            f"{', '.join(given)}: no pair is left ({', '.join(f'{n} {why}' for why, n in gone.items()) or 'no verdict'})"
        )
    comparisons = mixed(own, others, config.own_share, lambda c: rng(shop.seed, "reward", "mix", c.prompt, c.first).random())
    held, _ = fit_preference_model(
        model,
        comparisons,
        config,
        out,
        seed=shop.seed,
        progress=shop.progress("reward"),
        labels=store.read_manifest(shop.path(PREFERENCES)),
        name=shop.constitution.name,
        base="the fine-tuned model of the same run (`../20-sft`)",
        normalise_over=[row for c in own for row in (c.first, c.second)],
    )
    others_used = sum(c.source != OWN for c in comparisons)
    told_of_others = {"of others": others_used, **{f"others' {why}": n for why, n in gone.items()}} if given else {}
    store.finish(out, pairs=len(comparisons), held_out=held, **told_of_others)


def ppo(shop: Workshop) -> None:
    """60-policy/: the fine-tuned model after PPO on preference model and rubric. Every process of a torchrun walks it."""
    import torch

    from cai.lm.local import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.precision import matmul_dtype
    from cai.modeling.tokenization import load_renderer
    from cai.reward.composite import combine
    from cai.reward.direct_rlaif import rater
    from cai.reward.preference_model import ADAPTER, PreferenceModel
    from cai.train.distributed import rank, said_by_first, size
    from cai.train.ppo import trainer as training
    from cai.train.ppo.actor import POLICY as LEARNT
    from cai.train.ppo.actor import Actor, Adapters, Whole
    from cai.train.ppo.rollout import RewardTable, Rollout
    from cai.train.tracking import tracker

    run, out, config = shop.loaded.run, shop.path(POLICY), shop.loaded.run.ppo
    about = {"mix": digest(run.mix)}
    rate = None
    if run.mix.direct:
        lm = shop.lm(run.judge or run.model)
        rate, about = rater(lm), about | {"judge": lm.fingerprint, "templates": templates.templates_digest()}
    inputs = [PROMPTS, SFT, REWARD, *[REVISIONS] * bool(config.ptx.coef)]
    if said_by_first(rank() == 0 and store.begin(out, "ppo", shop.made(config, inputs, ("rubric",), **about)) is not None):
        return
    where = str(shop.path(SFT))
    torch.manual_seed(shop.seed)
    renderer, spread = load_renderer(where), config.shard and size() > 1  # one process alone has nothing to spread
    copy = load_model(where, matmul_dtype()) if spread or matmul_dtype() != torch.float32 else None
    if config.mode == "lora":
        base = with_adapter(load_model(where), LEARNT, config.rank, config.layers)
        actor: Actor = Adapters(base, copy)
    else:
        reference = load_model(where)
        base = with_adapter(reference, ADAPTER, run.reward.rank, run.reward.layers) if run.mix.pm else reference
        actor = whole_actor = Whole(load_model(where), base, copy, config.layers)
        if spread:
            whole_actor.shard()
    judge = PreferenceModel.load(base, renderer, shop.path(REWARD)) if run.mix.pm else None
    if config.critic == "reward" and judge is not None:
        actor.critic.watch(judge, run.mix.pm)

    def score(rollouts: Sequence[Rollout]) -> RewardTable:
        return combine([r.prompt for r in rollouts], [r.text for r in rollouts], judge, shop.rubric, run.mix, rate)

    rows = rows_of(shop.path(PROMPTS), Prompt)
    learnt: list[Revision] = rows_of(shop.path(REVISIONS), Revision) if config.ptx.coef else []
    texts = [(renderer.prompt_ids(r.chat), renderer.reply_ids(r.final)) for r in learnt if r.final is not None]
    track = tracker(None if rank() else run.track, shop.path("60-tensorboard"), run.name)
    it, told, folder = training.learner(actor, config), shop.progress("ppo"), store.partial(out)
    folder.mkdir(parents=True, exist_ok=True)
    history = training.ppo(it, renderer, rows, score, config, folder, seed=shop.seed, progress=told, texts=texts, track=track)
    whole = load_model(where)
    actor.write(whole)
    if rank() == 0:
        with store.publish_folder(out) as folder:
            whole.save_pretrained(folder)
            renderer.tokenizer.save_pretrained(folder)
        store.finish(out, updates=len(history), episodes=sum(int(row["episodes"]) for row in history))
        # three times the model's size; last, for a kill before this would need it, and a run of no update has none
        shutil.rmtree(out / "checkpoints", ignore_errors=True)


def evaluate(shop: Workshop) -> None:
    """70-replies.jsonl and 70-scores.jsonl: base, SFT and policy on held-out prompts."""
    run, out = shop.loaded.run, shop.path(SCORES)
    made = shop.made(run.eval, [HELD_OUT, SFT, REWARD, POLICY], ("rubric",), model=shop.lm(run.model).fingerprint)
    if store.begin(out, "eval", made):
        return
    asked: list[Item] = items(some(rows_of(shop.path(HELD_OUT), Prompt), run.eval.prompts, shop.seed, "eval"), run.eval.draws)
    shop.path(EVAL).mkdir(exist_ok=True)
    replies: list[Reply] = []
    for subject, folder in SUBJECTS.items():
        lm = shop.lm(f"local:{shop.path(folder)}" if folder else run.model)
        step, part = replier(subject, lm, shop.rubric, run.eval, shop.seed), shop.path(EVAL) / f"{subject}.jsonl"
        shop.fill(lm, part, asked, step, Reply, f"eval {subject}", source=item_of)
        replies += rows_of(part, Reply)
        del lm, step
        shop.close_models()  # one subject in memory at a time
    read = {p.id for p in some([item.prompt for item in asked], run.eval.reward_prompts, shop.seed, "reward")}
    rewards = iter(_rewarded(shop, [r for r in replies if r.source in read]))
    measured = [next(rewards) if r.source in read else r for r in replies]
    store.publish(shop.path(REPLIES), "".join(r.line() + "\n" for r in measured))
    scores = refusal_scores(measured, seed=run.seed, rewarded=read) + comparisons(measured, seed=run.seed)
    store.publish(out, "".join(s.line() + "\n" for s in scores))
    store.finish(out, replies=len(measured), scores=len(scores))


def _rewarded(shop: Workshop, replies: Sequence[Reply]) -> list[Reply]:
    """The replies with their preference-model reward, and those of the policy with their log-ratio to the reference."""
    from cai.lm.local import load_model
    from cai.modeling.lora import with_adapter
    from cai.modeling.tokenization import load_renderer
    from cai.reward.preference_model import ADAPTER, PreferenceModel
    from cai.train.ppo.rollout import text_logprobs

    run, sft_folder = shop.loaded.run, str(shop.path(SFT))
    renderer = load_renderer(sft_folder)
    reference = load_model(sft_folder)
    own = [(r.chat, r.response, r.finished) for r in replies if r.subject == "policy"]
    temperature = run.eval.temperature or 1.0
    told = shop.progress("eval reward and kl")
    policy_logps = text_logprobs(load_model(str(shop.path(POLICY))), renderer, own, temperature)
    told(1, 3)
    ratios = iter([a - b for a, b in zip(policy_logps, text_logprobs(reference, renderer, own, temperature), strict=True)])
    told(2, 3)
    judge = PreferenceModel.load(
        with_adapter(reference, ADAPTER, run.reward.rank, run.reward.layers), renderer, shop.path(REWARD)
    )
    rewards = judge.score([judge.rows(r.chat, r.response) for r in replies])
    told(3, 3)
    return [
        r.model_copy(update={"reward": reward, "kl": next(ratios) if r.subject == "policy" else None})
        for r, reward in zip(replies, rewards, strict=True)
    ]


def report(shop: Workshop) -> None:
    """report.html, from the files alone."""
    write_report(shop.loaded.folder)


STAGES: dict[str, Callable[[Workshop], None]] = {
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

"""The stage `reward` of a run that names a published reward model: its scale, and its agreement
with the labels of the run. Nothing is trained.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cai import store
from cai.artifacts import PAIRS, PREFERENCES, REWARD
from cai.data.filters import prompt_key
from cai.errors import StoreError
from cai.pipeline.context import RunContext, load_rows
from cai.records import Pair, Preference, Prompt, Score
from cai.statistics.estimates import estimate

if TYPE_CHECKING:
    from cai.reward.published_model import PublishedModel


def scale_published_model(ctx: RunContext, spec: str) -> None:
    """50-reward/: which model it is, the scale at which its scores have mean 0 and variance 1 over
    the fine-tuned model's replies, and its agreement with the run's labels.
    """
    from cai.reward.published_model import open_published_model, published_fingerprint

    out = ctx.path(REWARD)
    provenance = {"reward_model": f"{spec} {published_fingerprint(spec)}"}
    if ctx.begin(out, "reward", ctx.provenance(spec, [PAIRS, PREFERENCES], **provenance)):
        return
    model = open_published_model(spec)
    pairs = {pair.id: pair for pair in load_rows(ctx.path(PAIRS), Pair) if pair.unscored is None}
    margins, scores = _scores(model, list(pairs.values()))
    if not scores:
        raise StoreError(f"{ctx.path(PAIRS)}: no reply fits the window of {spec}: nothing to scale")
    model.normalize(scores)
    agreement = _agreement(pairs, margins, load_rows(ctx.path(PREFERENCES), Preference))
    metrics = {"agreement": agreement.model_dump(), "scored_replies": len(scores)}
    with store.atomic_directory(out) as folder:
        model.save(folder, spec)
        text = json.dumps(metrics, indent=2) + "\n"
        (folder / "metrics.json").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(_card(ctx, spec, agreement), encoding="utf-8")
    store.finish_artifact(out, pairs=len(pairs), too_long=2 * len(pairs) - len(scores))


def _scores(model: PublishedModel, pairs: list[Pair]) -> tuple[dict[str, float], list[float]]:
    """(pair -> score of the first reply less that of the second, all scores)."""
    firsts = model.score_within_window([model.rows(p.chat, p.first) for p in pairs])
    seconds = model.score_within_window([model.rows(p.chat, p.second) for p in pairs])
    margins = {
        pair.id: first - second
        for pair, first, second in zip(pairs, firsts, seconds, strict=True)
        if first is not None and second is not None
    }
    return margins, [score for score in (*firsts, *seconds) if score is not None]


def _agreement(
    pairs: dict[str, Pair], margins: dict[str, float], preferences: list[Preference]
) -> Score:
    """How often the model prefers the reply that the label prefers; undecided labels are left out.
    A label of a pair without a margin is unscored.
    """
    values: list[float | None] = []
    prompts: list[str] = []
    for preference in preferences:
        pair, p_first = pairs.get(preference.source), preference.p_first
        if pair is None or p_first is None or p_first == 0.5:
            continue
        margin = margins.get(pair.id)
        prompts.append(prompt_key(Prompt(chat=pair.chat)))
        if margin is None:
            values.append(None)
        else:
            values.append(0.5 if margin == 0 else float((margin > 0) == (p_first > 0.5)))
    return estimate("reward.agreement", "reward", values, prompts, proportion=True)


def _card(ctx: RunContext, spec: str, agreement: Score) -> str:
    share = "unknown" if agreement.mean is None else f"{agreement.mean:.3f} (n = {agreement.n})"
    return (
        f"# Reward model of the run {ctx.run.name}\n\n"
        f"`{spec}`, which others trained. Its weights are not in this folder; `published.json` has "
        "the gain and bias with which its scores have mean 0 and variance 1 over the fine-tuned "
        "model's replies.\n\n"
        f"Agreement with the labels of the run: {share}.\n"
    )

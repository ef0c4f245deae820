"""Critique and revision: the supervised half of Constitutional AI (arXiv:2212.08073, section 3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from pydantic import Field

from cai import templates
from cai.constitution.schema import Constitution, Principle
from cai.errors import UnansweredError
from cai.generate import regression
from cai.generate.filters import Gate, near_copy
from cai.lm.base import LM
from cai.records import Chat, FrozenModel, Kind, Prompt, PromptDraw, Revision, Round
from cai.seeds import derive, rng


class ReviseConfig(FrozenModel):
    """How replies are drawn, criticised and rewritten."""

    prompts: int | None = Field(None, ge=1)
    """Only so many prompts, drawn evenly; None: all."""
    rounds: int = Field(1, ge=0, le=16)
    """Critiques and revisions per reply, at most."""
    stop_when_kept: bool = True
    """No further round once the gate lets a revision through."""
    kinds: tuple[Kind, ...] = ("disallowed", "sensitive")
    """Prompts of other kinds keep the model's own reply: the helpful half of the training text."""
    helpful_samples: int = Field(1, ge=1)
    """Replies to each prompt of those other kinds (the paper draws two): more of them, less refusing of harmless requests."""
    matrix: bool = False
    """Compare every revision with the first reply, by every principle that was drawn: a revision that undoes what an earlier one
    had mended is passed over, and the best of the others is kept. Costs two short calls per principle and round."""
    direct: bool = False
    """Ask for the revision without a critique first."""
    temperature: float = Field(1.0, ge=0)
    """Of the first reply; critiques and revisions are drawn at `revise_temperature`."""
    revise_temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(64, ge=1)
    """Of a reply or a revision; a reply cut there loses its unfinished sentence."""
    critique_tokens: int = Field(48, ge=1)


def revised(prompt: Prompt, config: ReviseConfig) -> bool:
    """Whether replies to this prompt are criticised and rewritten, rather than kept as they are."""
    return prompt.kind is None or prompt.kind in config.kinds


def revise_items(prompts: Sequence[Prompt], config: ReviseConfig) -> list[PromptDraw]:
    """What `reviser`'s step is called on: one draw per prompt to revise, `helpful_samples` per other prompt."""
    return [
        PromptDraw(prompt=prompt, draw=draw)
        for prompt in prompts
        for draw in range(1 if revised(prompt, config) else config.helpful_samples)
    ]


def revised_item(row: Revision) -> str:
    """`Item.id` of the item that a row came from."""
    return f"{row.source}/{row.draw}"


def revising(constitution: Constitution, config: ReviseConfig) -> list[Principle]:
    """The principles that replies may be rewritten by."""
    return [p for p in constitution.principles if p.revision and (config.direct or p.critique)]


def draw_principle(principles: Sequence[Principle], prompt: Prompt, seed: int, *where: object) -> Principle | None:
    """One principle that applies to the prompt's kind, by weight; the prompt's own category weighs four times as much.

    The draw is addressed by (seed, prompt, where): no order of work changes it. None: no principle applies.
    """
    fit = [p for p in principles if prompt.kind is None or prompt.kind in p.applies_to]
    if not fit:
        return None
    weights = [p.weight * (4.0 if p.category == prompt.category else 1.0) for p in fit]
    return rng(seed, "principle", prompt.id, *where).choices(fit, weights)[0]


def reviser(
    constitution: Constitution, author: LM, config: ReviseConfig, gate: Gate, seed: int
) -> Callable[[PromptDraw], Awaitable[Revision]]:
    """The step that makes one `Revision` from one draw for one prompt: reply, then rounds of critique and revision."""
    principles = revising(constitution, config)

    async def say(prompt: Prompt, what: str, chat: Chat, *, max_tokens: int, temperature: float) -> str | None:
        drawn = await author.sample(
            chat, max_tokens=max_tokens, temperature=temperature, seed=derive(seed, "revise", prompt.id, what)
        )
        return templates.parse_reply(drawn.text, finished=drawn.finished)

    async def one_round(prompt: Prompt, number: int, last: str) -> Round | None:
        principle = draw_principle(principles, prompt, seed, "revise", number)
        if principle is None:
            return None
        critique, shots = "", constitution.examples.critique_for(prompt.kind)
        if not config.direct:
            asked = templates.critique_chat(shots, prompt.chat, last, principle)
            warmth = config.revise_temperature
            critique = await say(prompt, f"critique {number}", asked, max_tokens=config.critique_tokens, temperature=warmth) or ""
        heard = None if config.direct else critique or templates.NO_CRITIQUE
        chat = templates.revision_chat(shots, prompt.chat, last, principle, heard)
        revision = await say(
            prompt, f"revision {number}", chat, max_tokens=config.max_tokens, temperature=config.revise_temperature
        )
        return Round(principle=principle.id, critique=critique, revision=revision or "")

    async def revise(item: PromptDraw) -> Revision:
        prompt = item.prompt
        try:
            return await rewritten(item)
        except UnansweredError as error:
            why = f"no answer: {error}"
            return Revision(source=prompt.id, draw=item.draw, chat=prompt.chat, initial="", final=None, dropped=why)

    async def rewritten(item: PromptDraw) -> Revision:
        prompt = item.prompt
        which = f"reply {item.draw}"
        initial = await say(prompt, which, prompt.chat, max_tokens=config.max_tokens, temperature=config.temperature) or ""
        rounds: list[Round] = []
        wanted = config.rounds if revised(prompt, config) else 0
        for number in range(wanted):
            made = await one_round(prompt, number, next((r.revision for r in reversed(rounds) if r.revision), initial))
            if made is None:
                break
            rounds.append(made)
            if config.stop_when_kept and _objection(prompt, initial, made.revision, gate) is None:
                break
        compared = None
        if config.matrix and rounds:
            compared = await regression.matrix(author, constitution.examples.compare, prompt.chat, initial, rounds, principles)
        return choose(item, initial, rounds, gate, compared)

    return revise


def _objection(prompt: Prompt, initial: str, revision: str, gate: Gate) -> str | None:
    if revision and near_copy(revision, initial):
        return "near copy of the first reply"
    return gate(prompt, revision)


def choose(
    item: PromptDraw,
    initial: str,
    rounds: Sequence[Round],
    gate: Gate,
    compared: Mapping[str, Sequence[float | None]] | None = None,
) -> Revision:
    """The latest revision that the gate lets through, else the first reply if it may stand, else dropped with the last reason.

    With `compared` (see `regress`), the best of those that undo nothing, the latest of equals.
    """
    prompt = item.prompt
    reasons = [_objection(prompt, initial, made.revision, gate) for made in rounds]
    for i in range(len(rounds)):
        if compared and reasons[i] is None and (undone := regression.falls_back(compared, i)):
            reasons[i] = f"falls back on {undone}"
    good = [i for i, reason in enumerate(reasons) if reason is None]
    best = max(good, key=lambda i: (regression.standing(compared or {}, i), i), default=None)
    first_reason = gate(prompt, initial)
    final, dropped = None, None
    if best is not None:
        final = rounds[best].revision
    elif first_reason is None:
        final = initial
    else:
        dropped = reasons[-1] if reasons else first_reason
    return Revision(
        source=prompt.id,
        draw=item.draw,
        chat=prompt.chat,
        initial=initial,
        rounds=tuple(rounds),
        final=final,
        chosen_round=best,
        dropped=dropped,
        matrix=None if compared is None else {name: tuple(row) for name, row in compared.items()},
    )

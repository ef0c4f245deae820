"""Critique and revision: the supervised half of Constitutional AI (arXiv:2212.08073, section 3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from cai import reply_parsing, templates
from cai.constitution.schema import Constitution, CritiqueExample, Principle
from cai.errors import UnansweredError
from cai.generate import regression
from cai.generate.best_of import Draw, Judgement, TextRequest, sample_best, sample_text
from cai.generate.filters import Gate, GradedGate, near_copy
from cai.generate.label import category_weight
from cai.lm.base import LM
from cai.records import Chat, FrozenModel, Kind, Prompt, PromptDraw, Revision, Round
from cai.seeds import rng


class ReviseConfig(FrozenModel):
    """How replies are drawn, criticised and revised."""

    prompts: int | None = Field(None, ge=1)
    """Number of prompts, a random subset; None: all."""
    rounds: int = Field(1, ge=0, le=16)
    """Most rounds of critique and revision per reply."""
    stop_when_kept: bool = True
    """No further round once the gate lets a revision through."""
    kinds: tuple[Kind, ...] = ("disallowed", "sensitive")
    """Kinds of prompts whose replies are revised. Prompts of other kinds keep the model's first
    reply: the helpful half of the training text."""
    helpful_samples: int = Field(1, ge=1)
    """Replies to each prompt of those other kinds; the paper draws two. More of them lead to fewer
    refusals of harmless requests."""
    samples: int = Field(1, ge=1, le=64)
    """Samples of each revision, and of each reply that is not revised, of which the best is kept.
    That is the one with the highest score by the rubric among those that the filters let through
    and the model ended itself. Rows record how many there were, and the index of the kept one."""
    matrix: bool = False
    """Compare every revision with the first reply by every principle drawn. A revision that
    undoes an earlier improvement is then rejected, and the best of the others is chosen. Costs two
    short calls per principle and round."""
    direct: bool = False
    """Revise without a critique."""
    self_correction: tuple[str, ...] = ()
    """Categories of prompts whose replies might rest on a stereotype. They are answered under the
    instruction to answer without bias, and not revised; the training text is without the
    instruction (Claude 2's model card, section 3.2).
    """
    temperature: float = Field(1.0, ge=0)
    """Of the first reply; critiques and revisions are drawn at `revise_temperature`."""
    revise_temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(64, ge=1)
    """Of a reply or a revision; one that is cut there loses its unfinished sentence."""
    helpful_max_tokens: int | None = Field(None, ge=1)
    """Of a reply to prompts of kinds that are not revised, which may need more room than a refusal.
    None: `max_tokens`."""
    critique_tokens: int = Field(48, ge=1)


def is_self_corrected(prompt: Prompt, config: ReviseConfig) -> bool:
    """Whether this prompt is answered under the instruction to answer without bias."""
    return prompt.category in config.self_correction


def is_revised(prompt: Prompt, config: ReviseConfig) -> bool:
    """Whether replies to this prompt are criticised and revised."""
    if is_self_corrected(prompt, config):
        return False
    return prompt.kind is None or prompt.kind in config.kinds


def revise_items(prompts: Sequence[Prompt], config: ReviseConfig) -> list[PromptDraw]:
    """The inputs of `reviser`'s step.

    A prompt whose replies are revised has one draw, any other prompt `helpful_samples`.
    """
    items: list[PromptDraw] = []
    for prompt in prompts:
        draws = 1 if is_revised(prompt, config) else config.helpful_samples
        items += [PromptDraw(prompt=prompt, draw=draw) for draw in range(draws)]
    return items


def revised_item(row: Revision) -> str:
    """`PromptDraw.id` of the item that a row came from."""
    return f"{row.source}/{row.draw}"


def revision_principles(constitution: Constitution, config: ReviseConfig) -> list[Principle]:
    """The principles by which replies may be revised."""
    return [p for p in constitution.principles if p.revision and (config.direct or p.critique)]


def draw_principle(
    principles: Sequence[Principle], prompt: Prompt, seed: int, *address: object
) -> Principle | None:
    """One principle that applies to the prompt's kind, drawn by weight; None if none applies.

    Principles of the prompt's own category weigh four times as much. The draw follows from (seed,
    prompt, address), whatever the order of work.
    """
    applicable = [p for p in principles if prompt.kind is None or prompt.kind in p.applies_to]
    if not applicable:
        return None
    weights = [category_weight(p, prompt.category) for p in applicable]
    return rng(seed, "principle", prompt.id, *address).choices(applicable, weights)[0]


def reviser(
    constitution: Constitution, author: LM, config: ReviseConfig, gate: Gate, seed: int
) -> Callable[[PromptDraw], Awaitable[Revision]]:
    """The step that makes one `Revision` from one draw: a reply, then critiques and revisions."""
    return _Reviser(constitution, author, config, gate, seed).revise


@dataclass(frozen=True)
class _Reviser:
    constitution: Constitution
    author: LM
    config: ReviseConfig
    gate: Gate
    seed: int

    async def revise(self, item: PromptDraw) -> Revision:
        """The row of one draw; a call without an answer gives a dropped row."""
        try:
            return await self._revise(item)
        except UnansweredError as error:
            return Revision(
                source=item.prompt.id,
                draw=item.draw,
                chat=item.prompt.chat,
                initial="",
                final=None,
                dropped=error.reason,
            )

    async def _revise(self, item: PromptDraw) -> Revision:
        config, prompt = self.config, item.prompt
        initial = await self._initial(item)
        rounds = await self._rounds(prompt, initial.text) if is_revised(prompt, config) else []
        matrix = None
        if config.matrix and rounds:
            matrix = await regression.comparison_matrix(
                self.author,
                self.constitution.examples.compare,
                prompt.chat,
                initial.text,
                rounds,
                self._principles(),
            )
        row = choose(item, initial.text, rounds, self.gate, matrix)
        samples, kept = initial.choice
        return row.model_copy(
            update={
                "initial_finished": initial.finished,
                "initial_samples": samples,
                "initial_sample": kept,
                "self_corrected": is_self_corrected(prompt, config) or None,
            }
        )

    async def _initial(self, item: PromptDraw) -> Draw:
        """The first reply: the best of several where no round will revise it."""
        config, prompt = self.config, item.prompt
        is_helpful = not is_revised(prompt, config)
        limit = config.helpful_max_tokens if is_helpful else None
        corrected = is_self_corrected(prompt, config)
        request = TextRequest(
            (prompt.id, f"reply {item.draw}"),
            templates.self_correction_chat(prompt.chat) if corrected else prompt.chat,
            limit or config.max_tokens,
            config.temperature,
            reply_parsing.parse_first_reply,
        )
        is_final = is_helpful or not config.rounds or self._principle(prompt, 0) is None
        return await sample_best(
            self.author,
            request,
            self.seed,
            config.samples if is_final else 1,
            lambda text: _judgement(prompt, None, text, self.gate),
        )

    async def _rounds(self, prompt: Prompt, initial: str) -> list[Round]:
        rounds: list[Round] = []
        reply = initial
        for number in range(self.config.rounds):
            principle = self._principle(prompt, number)
            if principle is None:
                break
            critique = await self._critique(prompt, number, reply, principle)
            shown_critique = None if self.config.direct else critique or templates.NO_CRITIQUE
            request = self._request(
                prompt,
                f"revision {number}",
                templates.revision_chat(
                    self._shots(prompt), prompt.chat, reply, principle, shown_critique
                ),
                self.config.max_tokens,
            )
            revision = await sample_best(
                self.author,
                request,
                self.seed,
                self.config.samples,
                lambda text: _judgement(prompt, initial, text, self.gate),
            )
            rounds.append(_round(principle, critique, revision))
            reply = revision.text or reply
            if self.config.stop_when_kept and self._passes(prompt, initial, revision.text):
                break
        return rounds

    def _passes(self, prompt: Prompt, initial: str, revision: str) -> bool:
        return _objection(prompt, initial, revision, self.gate) is None

    async def _critique(self, prompt: Prompt, number: int, reply: str, principle: Principle) -> str:
        """A critique of `reply`; empty where revisions are direct."""
        if self.config.direct:
            return ""
        chat = templates.critique_chat(self._shots(prompt), prompt.chat, reply, principle)
        request = self._request(prompt, f"critique {number}", chat, self.config.critique_tokens)
        return (await sample_text(self.author, request, self.seed)).text

    def _request(self, prompt: Prompt, name: str, chat: Chat, max_tokens: int) -> TextRequest:
        return TextRequest((prompt.id, name), chat, max_tokens, self.config.revise_temperature)

    def _shots(self, prompt: Prompt) -> tuple[CritiqueExample, ...]:
        return self.constitution.examples.critique_for(prompt.kind)

    def _principle(self, prompt: Prompt, number: int) -> Principle | None:
        return draw_principle(self._principles(), prompt, self.seed, "revise", number)

    def _principles(self) -> list[Principle]:
        return revision_principles(self.constitution, self.config)


def _round(principle: Principle, critique: str, revision: Draw) -> Round:
    samples, kept = revision.choice
    return Round(
        principle=principle.id,
        critique=critique,
        revision=revision.text,
        finished=revision.finished,
        samples=samples,
        sample=kept,
    )


def _judgement(prompt: Prompt, initial: str | None, text: str, gate: Gate) -> Judgement:
    objection = _objection(prompt, initial, text, gate)
    return Judgement(objection, gate.score(prompt, text) if isinstance(gate, GradedGate) else None)


def _objection(prompt: Prompt, initial: str | None, revision: str, gate: Gate) -> str | None:
    if revision and initial is not None and near_copy(revision, initial):
        return "near copy of the first reply"
    return gate(prompt, revision)


def choose(
    item: PromptDraw,
    initial: str,
    rounds: Sequence[Round],
    gate: Gate,
    matrix: Mapping[str, Sequence[float | None]] | None = None,
) -> Revision:
    """The row with its final text.

    That is the latest revision that the gate lets through; else the first reply if the gate lets
    it through; else none, and the row is dropped with the last reason.

    Args:
        matrix: see `regression.comparison_matrix`. With it, a revision that undoes an earlier
            improvement is rejected too, and the best of the others is chosen (the latest of
            equals).
    """
    prompt = item.prompt
    reasons = [_objection(prompt, initial, entry.revision, gate) for entry in rounds]
    matrix_row = None
    if matrix is not None:
        matrix_row = {name: tuple(row) for name, row in matrix.items()}
        for index, reason in enumerate(reasons):
            undone = None if reason else regression.regressed_principle(matrix, index)
            if undone:
                reasons[index] = f"falls back on {undone}"
    chosen = _best_round(reasons, matrix or {})
    initial_reason = gate(prompt, initial)
    final, dropped = None, None
    if chosen is not None:
        final = rounds[chosen].revision
    elif initial_reason is None:
        final = initial
    else:
        dropped = reasons[-1] if reasons else initial_reason
    return Revision(
        source=prompt.id,
        draw=item.draw,
        chat=prompt.chat,
        initial=initial,
        rounds=tuple(
            entry.model_copy(update={"passes": reason is None})
            for entry, reason in zip(rounds, reasons, strict=True)
        ),
        final=final,
        chosen_round=chosen,
        dropped=dropped,
        matrix=matrix_row,
    )


def _best_round(
    reasons: Sequence[str | None], matrix: Mapping[str, Sequence[float | None]]
) -> int | None:
    """The acceptable round with the highest mean probability, the latest of equals."""
    acceptable = [index for index, reason in enumerate(reasons) if reason is None]
    return max(
        acceptable,
        key=lambda index: (regression.mean_probability(matrix, index), index),
        default=None,
    )

"""Prompts answered by one model, each reply graded: by the rubric, or by any other grader.

An evaluation is its items, a grader, and a function from graded replies to scores. Left out: where
items come from, and where replies are kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from cai.artifacts import SUBJECTS
from cai.errors import UnansweredError
from cai.graders.base import GradedItem, Grader, Verdict, scored_reply
from cai.graders.guard_verdicts import JudgeHarm
from cai.lm.base import LM, NO_SAMPLE, Sample
from cai.records import Chat, EvalReply, FrozenModel, Prompt, PromptDraw, Score, ScoredReply
from cai.rubric import CompiledRubric, grade, unscored_grade
from cai.seeds import derive

SubjectName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class EvalSubject(FrozenModel):
    """A model to compare with base, SFT and policy. In short: its spec alone."""

    model: str | None = None
    """A spec; None: the run's `model`."""
    system: str | None = Field(None, min_length=1)
    """Its system turn."""
    turns: str | None = Field(None, pattern=r"\.(txt|jsonl)$")
    """A file, relative to the run's YAML: turns before the prompt, such as worked examples
    (`.jsonl` rows of `role` and `content`), or a system turn (`.txt`).
    """

    @model_validator(mode="before")
    @classmethod
    def _from_spec(cls, data: Any) -> Any:
        return {"model": data} if isinstance(data, str) else data


class EvalConfig(FrozenModel):
    """How held-out prompts are answered."""

    prompts: int | None = Field(None, ge=1)
    """Number of held-out prompts, drawn at random; None: all."""
    reward_prompts: int | None = Field(None, ge=1)
    """Number of prompts whose replies get rewards, and on which the policy's KL is measured. For
    them that takes as long as sampling the replies does; None: all."""
    draws: int = Field(1, ge=1)
    """Replies per prompt."""
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(64, ge=1)
    guard: str | None = None
    """A guard model that grades the harm of replies besides the rubric: `local:FOLDER_OR_HUB_ID`,
    or `local:FOLDER#LABEL` of a classifier."""
    guideline: str | None = None
    """The rule that a guard's chat template takes, such as ShieldGemma's."""
    subjects: dict[SubjectName, EvalSubject] = {}
    """Name -> a model's spec, or any of `{model: SPEC, system: TEXT, turns: FILE}`: without a
    `model` it is the run's own. Where there is one, the run's judge compares the replies of base,
    SFT, policy and these in both orders, and the scores have their Elo ratings.
    """
    compared_prompts: int | None = Field(None, ge=1)
    """Number of prompts whose replies are compared; None: all."""

    @model_validator(mode="after")
    def _guideline_has_its_guard(self) -> EvalConfig:
        if self.guideline is not None and self.guard is None:
            raise ValueError("guideline is a rule for a guard: name one (guard: local:FOLDER)")
        return self

    @field_validator("subjects")
    @classmethod
    def _names_are_free(cls, subjects: dict[str, EvalSubject]) -> dict[str, EvalSubject]:
        if taken := subjects.keys() & SUBJECTS:
            raise ValueError(f"{min(taken)} is compared anyway: give the subject another name")
        return subjects

    @property
    def of_replies(self) -> EvalConfig:
        """The settings that decide what a model replies."""
        return self.model_copy(update={"subjects": {}, "compared_prompts": None})


@dataclass(frozen=True)
class Graders:
    """What grades the replies of a run's evaluation."""

    rubric: CompiledRubric
    guard: JudgeHarm | None = None
    """As `cai.graders.guard` opens it; None: nobody but the rubric."""


@dataclass(frozen=True)
class ReplyEvaluation:
    """One evaluation, ready to run."""

    items: Sequence[GradedItem]
    grader: Grader
    scores: Callable[[Sequence[ScoredReply]], list[Score]]
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What decides the values besides items, model and sampling."""


def item_id(reply: EvalReply) -> str:
    """`PromptDraw.id` of the item that a reply answers."""
    return f"{reply.source}/{reply.draw}"


def prompt_draws(prompts: Sequence[Prompt], draws: int) -> list[PromptDraw]:
    """Every prompt `draws` times."""
    return [PromptDraw(prompt=prompt, draw=draw) for prompt in prompts for draw in range(draws)]


async def reply_or_reason(
    lm: LM, chat: Chat, config: EvalConfig, seed: int, address: tuple[str, int]
) -> tuple[Sample, str | None]:
    """(one reply, None), or (no reply, the reason why there is none).

    Args:
        address: (prompt id, draw), from which its seed follows: a draw has the same one for all
            subjects and under all conditions, so that differences are paired.
    """
    try:
        sample = await lm.sample(
            chat,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=derive(seed, "eval", *address),
        )
    except UnansweredError as error:
        return NO_SAMPLE, error.reason
    return sample, None


def reply_step(
    subject: str,
    lm: LM,
    graders: CompiledRubric | Graders,
    config: EvalConfig,
    seed: int,
) -> Callable[[PromptDraw], Awaitable[EvalReply]]:
    """The step that answers one prompt and grades the reply by the rubric.

    An item without an answer gets an empty response and an unscored grade, and no guard is asked
    about it.
    """
    graders = graders if isinstance(graders, Graders) else Graders(graders)

    async def reply(item: PromptDraw) -> EvalReply:
        prompt, verdict = item.prompt, None
        address = (prompt.id, item.draw)
        sample, reason = await reply_or_reason(lm, prompt.chat, config, seed, address)
        if reason is not None:
            graded = unscored_grade({}, reason, prompt.id)
        else:
            graded = grade(
                graders.rubric,
                prompt=prompt.chat[-1].content,
                response=sample.text,
                kind=prompt.kind,
                source=prompt.id,
                finished=sample.finished,
            )
            if graders.guard is not None:
                verdict = await graders.guard(prompt.chat, sample.text)
        return EvalReply(
            source=prompt.id,
            subject=subject,
            chat=prompt.chat,
            kind=prompt.kind,
            category=prompt.category,
            draw=item.draw,
            response=sample.text,
            finished=sample.finished,
            grade=graded,
            reward=None,
            kl=None,
            guard=verdict,
        )

    return reply


def scored_reply_step(
    subject: str, lm: LM, grader: Grader, config: EvalConfig, seed: int
) -> Callable[[GradedItem], Awaitable[ScoredReply]]:
    """The step that answers one item and gives the reply to the grader.

    An item without an answer, or whose grader has none, has no values and the reason.
    """

    async def step(item: GradedItem) -> ScoredReply:
        address = (item.prompt.id, item.draw)
        sample, reason = await reply_or_reason(lm, item.chat, config, seed, address)
        if reason is not None:
            return scored_reply(item, subject, sample, Verdict({}, reason))
        try:
            verdict = await grader(item, sample)
        except UnansweredError as error:
            verdict = Verdict({}, error.reason)
        return scored_reply(item, subject, sample, verdict)

    return step

"""Held-out prompts answered by one model, each reply graded by the rubric: the items behind the refusal scores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pydantic import Field

from cai.errors import UnansweredError
from cai.lm.base import LM, Sample
from cai.records import EvalReply, FrozenModel, Prompt, PromptDraw
from cai.rubric import CompiledRubric, grade, unscored_grade
from cai.seeds import derive


class EvalConfig(FrozenModel):
    """How held-out prompts are answered."""

    prompts: int | None = Field(None, ge=1)
    """Only so many held-out prompts, drawn evenly; None: all."""
    reward_prompts: int | None = Field(None, ge=1)
    """Reward and KL, which take as long to read as replies take to draw, for the replies to only so many of them; None: all."""
    draws: int = Field(1, ge=1)
    """Replies per prompt."""
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(64, ge=1)


NOTHING = Sample(text="", finished=False, prompt_tokens=0, completion_tokens=0)


def item_of(reply: EvalReply) -> str:
    """`Item.id` of the item that a reply answers."""
    return f"{reply.source}/{reply.draw}"


def items(prompts: Sequence[Prompt], draws: int) -> list[PromptDraw]:
    return [PromptDraw(prompt=prompt, draw=draw) for prompt in prompts for draw in range(draws)]


def replier(
    subject: str, lm: LM, rubric: CompiledRubric, config: EvalConfig, seed: int
) -> Callable[[PromptDraw], Awaitable[EvalReply]]:
    """The step that answers one item. The seed of a draw is the same for all subjects: differences are paired."""

    async def reply(item: PromptDraw) -> EvalReply:
        prompt, where = item.prompt, derive(seed, "eval", item.prompt.id, item.draw)
        try:
            said = await lm.sample(
                prompt.chat,
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                seed=where,
            )
            found = grade(
                rubric,
                prompt=prompt.chat[-1].content,
                response=said.text,
                kind=prompt.kind,
                source=prompt.id,
            )
        except UnansweredError as error:
            said, found = NOTHING, unscored_grade({}, f"no answer: {error}", prompt.id)
        return EvalReply(
            source=prompt.id,
            subject=subject,
            chat=prompt.chat,
            kind=prompt.kind,
            category=prompt.category,
            draw=item.draw,
            response=said.text,
            finished=said.finished,
            grade=found,
            reward=None,
            kl=None,
        )

    return reply

"""The reward of a reply as named parts: a table before it is a number."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from cai.records import FrozenModel, Prompt
from cai.reward import penalties
from cai.reward.direct_rlaif import Rate
from cai.reward.preference_model import PreferenceModel
from cai.rubric import CompiledRubric, grade


class RewardMix(FrozenModel):
    """Weights of the parts; a part of weight 0 is not computed."""

    pm: float = Field(1.0, ge=0)
    """Of the preference model's reward, which has variance 1 over the reference policy's replies."""
    rubric: float = Field(1.0, ge=0)
    """Of the rubric's score; it speaks on prompts whose `kind` is known (arXiv:2411.01111: safety-relevant prompts only)."""
    direct: float = Field(0.0, ge=0)
    """Of the judge's own rating of a reply, in [-1, 1] (direct RLAIF, arXiv:2309.00267): instead of `pm`, or beside it."""
    length: float = Field(0.0, ge=0)
    """Taken off per hundred words beyond `free_words`: preference models like length for its own sake."""
    free_words: int = Field(150, ge=0)
    format: float = Field(0.0, ge=0)
    """Taken off for each fault of form: see `penalties.faults`."""

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> RewardMix:
        if not any((self.pm, self.rubric, self.direct, self.length, self.format)):
            raise ValueError(
                "every weight is 0: no reward would be left; give pm, rubric, direct, length or format one"
            )
        return self


def combine(
    prompts: Sequence[Prompt],
    replies: Sequence[str],
    model: PreferenceModel | None,
    rubric: CompiledRubric | None,
    mix: RewardMix,
    rate: Rate | None = None,
) -> dict[str, list[float | None]]:
    """Part -> one value per reply. None: the part could not tell. A prompt without a kind gets 0 from the rubric: no say."""
    table: dict[str, list[float | None]] = {}
    if mix.pm and model is not None:
        rows = [
            model.rows(prompt.chat, reply) for prompt, reply in zip(prompts, replies, strict=True)
        ]
        table["pm"] = [mix.pm * score for score in model.score(rows)]
    if mix.rubric and rubric is not None:
        table["rubric"] = [
            _rubric(prompt, reply, rubric, mix.rubric)
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
    if mix.direct and rate is not None:
        table["direct"] = [
            None if value is None else mix.direct * value for value in rate(prompts, replies)
        ]
    if mix.length:
        table["length"] = [
            -mix.length * penalties.surplus(reply, mix.free_words) for reply in replies
        ]
    if mix.format:
        table["format"] = [-mix.format * len(penalties.faults(reply)) for reply in replies]
    return table


def _rubric(prompt: Prompt, reply: str, rubric: CompiledRubric, weight: float) -> float | None:
    if prompt.kind is None:
        return 0.0
    score = grade(rubric, prompt=prompt.chat[-1].content, response=reply, kind=prompt.kind).score
    return None if score is None else weight * score

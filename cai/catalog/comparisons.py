"""Comparisons of several subjects: the prompts that they answer, and how a judge compares."""

from __future__ import annotations

from pydantic import ValidationError

from cai.catalog.task import EvaluationTask
from cai.data.readers import ReadOptions, prompt_rows
from cai.data.split import subsample
from cai.errors import UsageError
from cai.evals.judged_pairs import COMPARISON_LABEL
from cai.evals.replies import prompt_draws
from cai.generate.label_config import PRESETS, LabelConfig
from cai.records import PromptDraw


def compared_draws(task: EvaluationTask) -> list[PromptDraw]:
    """The different prompts of the data, or `limit` of them, each as often as replies are drawn.

    Raises:
        UsageError: there is none.
    """
    prompts = {prompt.id: prompt for prompt in prompt_rows(task.data, ReadOptions(task.columns))}
    if not prompts:
        raise UsageError(f"{task.data}: no prompts to compare replies to")
    chosen = subsample(list(prompts.values()), task.limit, task.rows_seed, "eval")
    return prompt_draws(chosen, task.config.draws)


def comparison_label(preset: str | None) -> LabelConfig:
    """The judge's settings by the name of a recipe; without one, as where nothing else is said.

    Raises:
        UsageError: there is no such recipe.
    """
    if not preset:
        return COMPARISON_LABEL
    try:
        return LabelConfig.model_validate({"preset": preset})
    except ValidationError:
        known = ", ".join(PRESETS)
        raise UsageError(f"eval: --preset {preset}: no such recipe; known: {known}") from None

"""The evaluations by name, and what each can be given. Nothing here takes time to import."""

from __future__ import annotations

from pathlib import Path

OPTIONS: dict[str, tuple[str, ...]] = {
    "refusal": ("guard", "guideline", "train"),
    "harm": ("preference", "guard", "guideline", "train"),
    "toxicity": ("scorer", "train"),
    "truthfulqa-open": ("judge", "train"),
    "jailbreak": ("templates", "systems", "train"),
    "helpfulness": ("reference", "train"),
    "closed-domain": ("train",),
}
"""Evaluation of replies -> the options that it has for itself."""
REQUIRED: dict[str, tuple[str, ...]] = {
    "harm": ("preference", "guard"),
    "toxicity": ("scorer",),
    "truthfulqa-open": ("judge",),
    "jailbreak": ("templates",),
}
"""Those of them of which it needs one."""
DESCRIBED = ("judge", "train")
"""Options of an evaluation that a YAML file describes."""
GRADED_BY_RUBRIC = ("refusal", "jailbreak", "helpfulness")
"""Evaluations that have a constitution's rubric as their grader."""
SAMPLING: dict[str, dict[str, float]] = {
    "harm": {"draws": 5, "temperature": 1.0},
    "toxicity": {"temperature": 1.0},
}
"""Evaluation -> settings of its source, where they are not those of `EvalConfig`."""
CHOICES = ("hhh", "bbq", "truthfulqa", "winogender", "crows-pairs", "likert", "calibration")
"""Evaluations by questions with options: the names in `cai.catalog.choices`."""
WITH_COLUMNS = ("hhh", "likert", "calibration")
"""Those of them whose rows are the user's own, with columns that may be named."""
COLUMN_FIELDS = ("first", "second", "chosen", "rejected", "response", "context")
"""Fields besides those of prompts that may be read from a column of another name."""


def is_described(name: str | None) -> bool:
    """Whether an evaluation is named by the YAML file that describes it."""
    return name is not None and Path(name).suffix in (".yaml", ".yml")

"""Names of a run's stages and artefacts.

The numbers order the listing of a run's folder as the stages run.
"""

from __future__ import annotations

from collections.abc import Iterable

STAGES = ("prompts", "revise", "sft", "pair", "label", "reward", "ppo", "eval", "report")
"""The stages, in the order in which they run."""
PROMPTS = "00-prompts.jsonl"
HELD_OUT = "01-held-out.jsonl"
VALIDATION = "02-validation.jsonl"
REVISIONS = "10-revisions.jsonl"
SFT = "20-sft"
PAIRS = "30-pairs.jsonl"
PREFERENCES = "40-preferences.jsonl"
REWARD = "50-reward"
POLICY = "60-policy"
TENSORBOARD = "60-tensorboard"
EVAL = "70-eval"
KL_REPLIES = f"{EVAL}/kl.jsonl"
REPLIES = "70-replies.jsonl"
SCORES = "70-scores.jsonl"
EVALUATIONS = "75-evaluations"
EVALUATION_SCORES = "75-evaluations.jsonl"
REPORT = "report.html"
CARD = "README.md"
"""In the folder of a model: its card."""
CARDED_LATER = (SFT, POLICY)
"""Artefacts whose card is written after they are finished, by the report: it decides nothing, and
is no part of their content's digest.
"""
REVIEW = "80-review.jsonl"
"""People's judgements. No artefact of a stage: nothing makes it anew, and none is to delete it."""
FILES = (
    PROMPTS,
    HELD_OUT,
    VALIDATION,
    REVISIONS,
    SFT,
    PAIRS,
    PREFERENCES,
    REWARD,
    POLICY,
    TENSORBOARD,
    EVAL,
    REPLIES,
    SCORES,
    EVALUATIONS,
    EVALUATION_SCORES,
)
"""The artefacts in the order of their stages: each may decide those after it."""
FINISHED_WITH = {HELD_OUT: PROMPTS, VALIDATION: PROMPTS, REPLIES: SCORES}
"""Artefact without a manifest of its own -> the one whose manifest records it too."""
METRICS = "metrics.jsonl"
"""In the policy's folder: one line an update."""
VALIDATION_FILE = "validation.jsonl"
"""In the policy's folder: one line a validation."""
SETTINGS = "run.json"
"""The run's settings, as the last command used them."""
SUBJECTS: dict[str, str | None] = {"base": None, "sft": SFT, "policy": POLICY}
"""Models that the evaluation compares, and the folder of each; None: the run's own `model`."""
COMPARISONS = (("sft", "base"), ("policy", "base"), ("policy", "sft"))
"""Pairs of them whose difference is reported, as the first minus the second."""


def subjects_of(names: Iterable[str]) -> list[str]:
    """Distinct names: base, sft, policy first, then the others in order of appearance."""
    distinct = list(dict.fromkeys(names))
    known = [name for name in SUBJECTS if name in distinct]
    return known + [name for name in distinct if name not in SUBJECTS]

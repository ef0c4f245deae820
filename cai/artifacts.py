"""Names of a run's stages and artefacts: the listing of a run's folder is the diagram of the line."""

from __future__ import annotations

STAGES = ("prompts", "revise", "sft", "pair", "label", "reward", "ppo", "eval", "report")
"""In the order in which a run walks them."""
PROMPTS, HELD_OUT = "00-prompts.jsonl", "01-held-out.jsonl"
REVISIONS = "10-revisions.jsonl"
SFT = "20-sft"
PAIRS = "30-pairs.jsonl"
PREFERENCES = "40-preferences.jsonl"
REWARD = "50-reward"
POLICY, TENSORBOARD = "60-policy", "60-tensorboard"
EVAL, REPLIES, SCORES = "70-eval", "70-replies.jsonl", "70-scores.jsonl"
REPORT = "report.html"
METRICS = "metrics.jsonl"
"""In the policy's folder: one line an update."""
SETTINGS = "run.json"
"""The run's settings, as the last command used them."""
SUBJECTS: dict[str, str | None] = {"base": None, "sft": SFT, "policy": POLICY}
"""Models that the evaluation compares, and the folder of each; None: the run's own `model`."""

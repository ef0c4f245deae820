"""The stages of a run: each reads files, calls one function of its package, and leaves one artefact
with a manifest.
"""

from __future__ import annotations

from collections.abc import Callable

from cai.pipeline.context import RunContext
from cai.pipeline.data_stages import label, pair, prompts, revise
from cai.pipeline.evaluation_stages import evaluate, report
from cai.pipeline.training_stages import ppo, reward, sft

RUN_STAGE: dict[str, Callable[[RunContext], None]] = {
    "prompts": prompts,
    "revise": revise,
    "sft": sft,
    "pair": pair,
    "label": label,
    "reward": reward,
    "ppo": ppo,
    "eval": evaluate,
    "report": report,
}
"""Name -> function, in the order of `cai.artifacts.STAGES`."""

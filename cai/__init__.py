"""Constitutional AI end to end: from a constitution in YAML to a measurably safer model.

The names below are what other programs may rely on; each is imported when it is first asked for, so
`import cai` costs nothing. The functions are those of `cai.api`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cai.api import evaluate, fit_preference_model, grade, label, revise
    from cai.constitution import Constitution, load_constitution
    from cai.errors import (
        BackendError,
        BudgetError,
        CaiError,
        ConfigError,
        JobError,
        StoreError,
        TrainError,
        TransientError,
        UnansweredError,
        UsageError,
    )
    from cai.evals.replies import EvalConfig
    from cai.generate.label_config import LabelConfig
    from cai.generate.revise import ReviseConfig
    from cai.lm import open_lm
    from cai.lm.base import RefusedAnswerError
    from cai.lm.body import MalformedAnswerError
    from cai.records import (
        Grade,
        Message,
        Pair,
        Preference,
        Prompt,
        Revision,
        Round,
        Score,
        Vote,
    )
    from cai.train.ppo.config import PPOConfig
    from cai.train.ppo.trainer import PPOTrainer
    from cai.train.preference import RewardConfig

    __version__: str

__all__ = [
    "BackendError",
    "BudgetError",
    "CaiError",
    "ConfigError",
    "Constitution",
    "EvalConfig",
    "Grade",
    "JobError",
    "LabelConfig",
    "MalformedAnswerError",
    "Message",
    "PPOConfig",
    "PPOTrainer",
    "Pair",
    "Preference",
    "Prompt",
    "RefusedAnswerError",
    "ReviseConfig",
    "Revision",
    "RewardConfig",
    "Round",
    "Score",
    "StoreError",
    "TrainError",
    "TransientError",
    "UnansweredError",
    "UsageError",
    "Vote",
    "__version__",
    "evaluate",
    "fit_preference_model",
    "grade",
    "label",
    "load_constitution",
    "open_lm",
    "revise",
]
_MODULE_NAMES = {
    "cai.api": ("evaluate", "fit_preference_model", "grade", "label", "revise"),
    "cai.constitution": ("Constitution", "load_constitution"),
    "cai.evals.replies": ("EvalConfig",),
    "cai.generate.label_config": ("LabelConfig",),
    "cai.generate.revise": ("ReviseConfig",),
    "cai.lm": ("open_lm",),
    "cai.lm.base": ("RefusedAnswerError",),
    "cai.lm.body": ("MalformedAnswerError",),
    "cai.records": (
        "Grade",
        "Message",
        "Pair",
        "Preference",
        "Prompt",
        "Revision",
        "Round",
        "Score",
        "Vote",
    ),
    "cai.train.ppo.config": ("PPOConfig",),
    "cai.train.ppo.trainer": ("PPOTrainer",),
    "cai.train.reward_config": ("RewardConfig",),
}
_MODULE_OF = {name: module for module, names in _MODULE_NAMES.items() for name in names}
"""Public name -> the module that defines it. The other errors are in `cai.errors`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("cai")
    return getattr(import_module(_MODULE_OF.get(name, "cai.errors")), name)


def __dir__() -> list[str]:
    return __all__

"""Constitutional AI end to end: from a constitution in YAML to a measurably safer model.

The names below are what other programs may rely on; each is imported when it is first asked for, so
`import cai` costs nothing. Training, rewards and evaluations are in their own packages, each a
plain function with a docstring.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from cai.lm import open_lm
    from cai.records import Grade, Pair, Preference, Prompt, Revision, Score

    __version__: str

__all__ = [
    "BackendError",
    "BudgetError",
    "CaiError",
    "ConfigError",
    "Constitution",
    "Grade",
    "JobError",
    "Pair",
    "Preference",
    "Prompt",
    "Revision",
    "Score",
    "StoreError",
    "TrainError",
    "TransientError",
    "UnansweredError",
    "UsageError",
    "__version__",
    "load_constitution",
    "open_lm",
]
_ROWS = {"Grade", "Pair", "Preference", "Prompt", "Revision", "Score"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("cai")
    if name in ("Constitution", "load_constitution"):
        home = "cai.constitution"
    elif name == "open_lm":
        home = "cai.lm"
    else:
        home = "cai.records" if name in _ROWS else "cai.errors"
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
